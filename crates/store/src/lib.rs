//! What the control plane remembers: one SQL schema on SQLite or PostgreSQL, leases, and one audit event per change.
