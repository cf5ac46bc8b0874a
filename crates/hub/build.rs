//! Builds the hub again when a page changes: the pages are part of the binary.

fn main() {
    println!("cargo::rerun-if-changed=../../web");
}
