/*
 * The numbers of the exponential in fd_softmax_tpl.h, for float and for double. The polynomial is that of
 * 2^f for f from -1/2 to 1/2, from the highest power on (tools/fit_exp.py); `round`, added to a number and
 * taken away again, rounds it to an integer, which with the exponent's bias is in its lowest bits meanwhile.
 */
#ifndef FD_EXP_H
#define FD_EXP_H

typedef struct {
    double least, round;
    int degree;
    double polynomial[12];
} fd_exp_numbers;
static const fd_exp_numbers fd_exp_of_f32 = {
    .least = -127,
    .round = 0x1.8p23 + 127,
    .degree = 5,
    .polynomial = {0.00132647273, 0.00967151299, 0.0555073358, 0.240222424, 0.693147004, 1},
};
static const fd_exp_numbers fd_exp_of_f64 = {
    .least = -1023,
    .round = 0x1.8p52 + 1023,
    .degree = 11,
    .polynomial = {4.43477114006894891e-10, 7.07378325404805457e-09, 1.01781995728823014e-07,
                   1.32154352822713347e-06, 1.52527334931250152e-05, 0.000154035304571121726,
                   0.00133335581467746204, 0.00961812910759411895, 0.0555041086648200774,
                   0.240226506959101305, 0.693147180559945286, 1},
};

#endif
