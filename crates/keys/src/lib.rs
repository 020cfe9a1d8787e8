//! Secret types on locked memory, the keystore format, page encryption, and the contract between agent and encryptor.
