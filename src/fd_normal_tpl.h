/*
 * Standard normal numbers of the stream, written once over the primitives of fd_mask_tpl.h and these,
 * on as many elements as v_f32 has:
 *
 *   v_u32                     32-bit integers, one an element
 *   words_u32(words, i)       32-bit words i, i+1, ... of blocks that v_put wrote
 *   set1_u32, and_u32, or_u32, xor_u32, sub_u32
 *   top_u32                   all ones where the highest bit is set, else 0
 *   f32_of_u32                an integer below 2^31 converted, to nearest even
 *   bits_f32, u32_bits        the bits of a float as integer, and back
 *   select_u32(m, a, b)       m ? a : b, m all ones or 0
 *   div_f32                   with one rounding
 *
 * Element i has word w, word (i mod 4) of block (i div 4) under tag 10. Its bit 31 is the sign and its
 * low 31 bits a point of the half line: with k = m in the outer half (bit 30 clear) and the complement
 * of m in the inner one, v = (k + 1/2) / 2^32 is the probability between the number and, respectively,
 * infinity or zero. Either is a function of v that a rational approximation, fitted for this (see
 * tools/fit_normal.py), gives to 4e-7 of itself:
 *
 *   inner   z = v C(v^2), the odd series of the quantile around its centre
 *   outer   z = N(y) / D(y), y = -log2(4v), all of whose coefficients are positive
 *
 * (J. M. Wichura, "Algorithm AS 241", Applied Statistics 37, 1988, parts the line in that way.) There is
 * no operation but IEEE +, -, x, / in float and integer arithmetic, none is contracted, and sums go
 * in Horner's order: the same bits everywhere. Fixed for ever, like the rest of the stream.
 */

enum {
    FD_NORMALS = 4 * FD_TILE_BLOCKS
}; /* made together: 16 blocks, which never carry out of c0 */

/* sum * x + c: a step of Horner's rule. */
FD_INLINE v_f32 fd_then(v_f32 sum, v_f32 x, float c) {
    return add_f32(mul_f32(sum, x), splat_f32(c));
}

/* Degree 5, coefficients from the highest on. */
FD_INLINE v_f32 fd_quintic(v_f32 x, float c5, float c4, float c3, float c2, float c1, float c0) {
    const v_f32 high = fd_then(fd_then(splat_f32(c5), x, c4), x, c3);
    return fd_then(fd_then(fd_then(high, x, c2), x, c1), x, c0);
}

/* The normal number of each word. */
FD_INLINE v_f32 fd_normal(v_u32 w) {
    const v_u32 sign = and_u32(w, set1_u32(0x80000000));
    const v_u32 inner = top_u32(add_u32(w, w));
    const v_u32 k = and_u32(xor_u32(w, inner), set1_u32(0x3FFFFFFF));
    const v_f32 v = mul_f32(add_f32(f32_of_u32(k), splat_f32(0.5)), splat_f32(0x1p-32));

    const v_f32 centre = fd_quintic(mul_f32(v, v), 298.655151f, 34.9834328f, 16.0876293f,
                                    5.76608944f, 2.62497067f, 2.50662827f);
    const v_f32 z_inner = mul_f32(centre, v);

    /* y = -log2(4v): what exponent and fraction bits say, read as one number, and the rest, which is
     * f - log2(1 + f) with f = 0 .. 1 the fraction */
    const v_u32 bits = u32_bits(v);
    const v_u32 fraction = or_u32(and_u32(bits, set1_u32(0x007FFFFF)), set1_u32(0x3F800000));
    const v_f32 linear =
        mul_f32(f32_of_u32(sub_u32(set1_u32(0x3E800000), bits)), splat_f32(0x1p-23));
    const v_f32 f = add_f32(f32_bits(fraction), splat_f32(-1.0));
    v_f32 rest = fd_quintic(f, 0.00908890367f, -0.0511344187f, 0.135926902f, -0.240410224f,
                            0.346548557f, -0.478464216f);
    rest = fd_then(fd_then(fd_then(rest, f, 0.721132219f), f, -0.442687601f), f, -4.2314543e-08f);
    const v_f32 y = add_f32(linear, rest);

    const v_f32 top = fd_quintic(y, 1.53951023e-05f, 0.00213019317f, 0.0560035296f, 0.4262366f,
                                 1.04673743f, 0.674489796f);
    const v_f32 bottom = fd_quintic(y, 3.86176907e-07f, 0.000200097536f, 0.0113141797f,
                                    0.162408754f, 0.743418336f, 1.0f);
    const v_f32 z_outer = div_f32(top, bottom);

    const v_u32 z = select_u32(inner, u32_bits(z_inner), u32_bits(z_outer));
    return f32_bits(xor_u32(z, sign));
}

/* Normals FD_NORMALS * number onwards of the stream. */
FD_INLINE void fd_normals(float *z, fd_schedule *s, uint64_t number) {
    FD_ALIGNED uint64_t words[2 * FD_TILE_BLOCKS];
    fd_tag_words(words, s, FD_TAG_NORMAL, number * FD_TILE_BLOCKS);
    for (unsigned i = 0; i < FD_NORMALS; i += sizeof(v_f32) / sizeof(float))
        store_f32(z + i, fd_normal(words_u32(words, i)));
}
