//! The control plane: the Atlas Administration API, the agents' endpoint, and the jobs between them.
