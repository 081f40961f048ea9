/* All of <string.h> that src/ needs, for compilers that have none here (tools/emulate.py). */
#include <stddef.h>
void *memcpy(void *to, const void *from, size_t n_bytes);
void *memset(void *to, int byte, size_t n_bytes);
