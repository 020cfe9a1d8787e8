//! The node: keystore, verdict, the lifecycle of the database process, rotation, snapshots, proof.
