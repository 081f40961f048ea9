/* A walk through a window in C order, run by run along its last axis. */
#ifndef FD_CURSOR_H
#define FD_CURSOR_H

#include "fd_common.h"
#include "fastdrop.h"

/* A place in a window: element `at` of the run that starts at index `run`. */
typedef struct {
    const fd_window *w;
    uint64_t run, at;
    uint64_t outer[FD_MAX_NDIM + 1]; /* places along the other axes */
} fd_cursor;

FD_INLINE void fd_cursor_init(fd_cursor *c, const fd_window *w, uint64_t element) {
    const int last = w->ndim - 1;
    c->w = w;
    c->run = w->first;
    c->at = element % w->shape[last], element /= w->shape[last];
    for (int axis = last - 1; axis >= 0; axis--) {
        c->outer[axis] = element % w->shape[axis], element /= w->shape[axis];
        c->run += c->outer[axis] * w->stride[axis];
    }
}

FD_INLINE uint64_t fd_run_left(const fd_cursor *c) { return c->w->shape[c->w->ndim - 1] - c->at; }

FD_INLINE uint64_t fd_index_at(const fd_cursor *c) {
    return c->run + c->at * c->w->stride[c->w->ndim - 1];
}

/* n elements on, at most to the end of the run, which is then the start of the next. */
FD_INLINE void fd_advance(fd_cursor *c, uint64_t n) {
    const fd_window *w = c->w;
    int axis = w->ndim - 1;
    c->at += n;
    if (c->at < w->shape[axis]) return;
    c->at = 0;
    while (axis-- > 0) {
        c->run += w->stride[axis];
        if (++c->outer[axis] < w->shape[axis]) return;
        c->run -= c->outer[axis] * w->stride[axis];
        c->outer[axis] = 0;
    }
}

#endif
