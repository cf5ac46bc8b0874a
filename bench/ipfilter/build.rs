//! Takes nginx's radix tree in, where its source is at hand (NGINX_SOURCE names it).

fn main() {
    println!("cargo::rerun-if-env-changed=NGINX_SOURCE");
    let Some(source) = std::env::var_os("NGINX_SOURCE") else {
        return;
    };
    let core = std::path::Path::new(&source).join("src/core");
    let tree = core.join("ngx_radix_tree.c");
    // The tree's own file, against a stand-in for nginx's other headers.
    cc::Build::new()
        .include("nginx")
        .define("NGX_RADIX_TREE_SOURCE", format!("\"{}\"", tree.display()).as_str())
        .define("NGX_RADIX_TREE_HEADER", format!("\"{}\"", core.join("ngx_radix_tree.h").display()).as_str())
        .opt_level(2)
        .file("nginx/tree.c")
        .compile("ngx_radix_tree");
    println!("cargo::rustc-cfg=nginx");
}
