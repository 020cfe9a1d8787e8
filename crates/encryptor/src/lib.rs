//! The WiredTiger extension: a WT_ENCRYPTOR whose database keys come from the agent.
