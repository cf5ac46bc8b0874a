#include <ngx_config.h>
#include <ngx_core.h>
#include NGX_RADIX_TREE_SOURCE

/* As `geo` makes its trees (ngx_http_geo_module.c). */
static ngx_pool_t pool;

void *nginx_tree(void) { return ngx_radix_tree_create(&pool, -1); }

int nginx_insert4(void *tree, uint32_t key, uint32_t mask, uintptr_t value) {
    return ngx_radix32tree_insert(tree, key, mask, value) != NGX_ERROR;
}

uintptr_t nginx_find4(void *tree, uint32_t key) { return ngx_radix32tree_find(tree, key); }

int nginx_insert6(void *tree, u_char *key, u_char *mask, uintptr_t value) {
    return ngx_radix128tree_insert(tree, key, mask, value) != NGX_ERROR;
}

uintptr_t nginx_find6(void *tree, u_char *key) { return ngx_radix128tree_find(tree, key); }
