/* All of <math.h> that src/ needs; see string.h. */
#define NAN __builtin_nanf("")
#define INFINITY __builtin_inff()
