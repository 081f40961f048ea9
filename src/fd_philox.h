/*
 * Philox4x32-10: the readable definition, one block at a time.
 *
 * J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2,
 * 3", SC 2011. A block is a pure function of a 128-bit counter and a 64-bit key; the known answers
 * of the authors' Random123 library are in fastdrop/data/stream_v1.json.
 */
#ifndef FD_PHILOX_H
#define FD_PHILOX_H

#include "fd_common.h"

#define FD_PHILOX_ROUNDS 10
#define FD_PHILOX_M0 0xD2511F53u /* multiplier of counter word 0 (Salmon et al., table 2) */
#define FD_PHILOX_M1 0xCD9E8D57u /* multiplier of counter word 2 */
#define FD_PHILOX_W0 0x9E3779B9u /* key step, word 0: the golden ratio */
#define FD_PHILOX_W1 0xBB67AE85u /* key step, word 1: sqrt(3) - 1 */

FD_INLINE void fd_philox_block(uint32_t out[4], const uint32_t counter[4], uint64_t key) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < FD_PHILOX_ROUNDS; round++) {
        uint64_t p0 = (uint64_t)FD_PHILOX_M0 * c0;
        uint64_t p1 = (uint64_t)FD_PHILOX_M1 * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += FD_PHILOX_W0;
        k1 += FD_PHILOX_W1;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

#endif
