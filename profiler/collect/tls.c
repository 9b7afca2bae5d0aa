/* The thread-local block of the collect half, the only one it has.
 *
 * Invariants:
 *  1. Initial-exec and plain data: reading it never calls __tls_get_addr, which may malloc (H3),
 *     and nothing is constructed or destroyed with it, so it is valid from a thread's first
 *     instruction to its last.
 *  2. It stays small: libweft.so takes its place from the static TLS surplus when it is loaded late
 *     (H55). A test holds it under 192 bytes.
 *
 * Rejected: a pointer to a mapped block per thread. It would have to be made before the first
 * malloc of each thread, in the malloc hook itself.
 */
#include "profiler/collect/pf.h"

_Thread_local pf_tls_block pf_tls __attribute__((tls_model("initial-exec")));
_Static_assert(sizeof(pf_tls_block) <= 192, "static TLS is scarce for libraries loaded late");
