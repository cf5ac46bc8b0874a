/* What ngx_radix_tree.c needs of nginx's headers, and no more. */
#ifndef STAND_IN
#define STAND_IN
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef intptr_t ngx_int_t;
typedef uintptr_t ngx_uint_t;
typedef unsigned char u_char;
typedef struct ngx_pool_s { int unused; } ngx_pool_t;

#define NGX_OK 0
#define NGX_ERROR -1
#define NGX_BUSY -3
#define NGX_PTR_SIZE 8
#define NGX_HAVE_INET6 1
#define ngx_inline inline

static ngx_uint_t ngx_pagesize = 4096;

static void *ngx_palloc(ngx_pool_t *pool, size_t size) { (void) pool; return malloc(size); }
static void *ngx_pmemalign(ngx_pool_t *pool, size_t size, size_t alignment) {
    (void) pool;
    return aligned_alloc(alignment, size);
}
#endif
