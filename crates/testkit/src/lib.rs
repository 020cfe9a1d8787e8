//! Parts for tests: a disk that loses power, WiredTiger builds, a Python environment.
