//! The port to a key service: the trait KeyService and its Azure Key Vault client.
