#include <ngx_config.h>
#include NGX_RADIX_TREE_HEADER
