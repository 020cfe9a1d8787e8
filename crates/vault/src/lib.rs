//! A development vault that speaks Azure Key Vault, Entra ID and the ARM calls keyward uses, and can say no the way Azure does.
