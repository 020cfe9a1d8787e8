//! Link options of the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // WiredTiger unloads its extensions; destructors of threads that used the library would then point nowhere.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo:rustc-link-arg-examples=-Wl,-z,nodelete");
}
