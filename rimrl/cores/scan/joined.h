// Communication that projects values before units read them, not after; part of `loops.h`. A matrix [D, P] for each
// unit and head takes the place of one that makes values and of one that projects what is read of them. What units read
// is the same, and where P, the width of what is made of messages, is small it takes less work. `joined` is
// [N, D, H (2 dk + P)], with queries and keys first.

template <typename R>
NOT_INLINE void join(idx N, idx D, idx P, idx H, idx dk, idx dv, const R* qkv, const R* project, R* joined) {
    const idx keys = 2 * H * dk, W = keys + H * dv, J = keys + H * P;
    for (idx row = 0; row < N * D; ++row) std::memcpy(joined + row * J, qkv + row * W, keys * sizeof(R));
    std::vector<R> head(P * dv);
    for (idx i = 0; i < H; ++i) {
        for (idx j = 0; j < P; ++j) std::memcpy(&head[j * dv], project + (j * H + i) * dv, dv * sizeof(R));
        const Panels<R> panels(1, dv, P, head.data(), true);
        row_product(N * D, nullptr, P, dv, qkv + keys + i * dv, W, panels[0], false, joined + keys + i * P, J);
    }
}

// Adds the gradients of both matrices, given that of `joined`.
template <typename R>
NOT_INLINE void join_backward(idx N, idx D, idx P, idx H, idx dk, idx dv, const R* qkv, const R* project, const R* d_joined,
                              R* d_qkv, R* d_project) {
    const idx keys = 2 * H * dk, W = keys + H * dv, J = keys + H * P;
    for (idx row = 0; row < N * D; ++row)
        SIMD for (idx j = 0; j < keys; ++j) d_qkv[row * W + j] += d_joined[row * J + j];
    std::vector<R> head(P * dv), d_head(P * dv);
    for (idx i = 0; i < H; ++i) {
        for (idx j = 0; j < P; ++j) {
            std::memcpy(&head[j * dv], project + (j * H + i) * dv, dv * sizeof(R));
            std::memcpy(&d_head[j * dv], d_project + (j * H + i) * dv, dv * sizeof(R));
        }
        const Panels<R> panels(1, P, dv, head.data(), false);
        const R* d = d_joined + keys + i * P;
        row_product(N * D, nullptr, dv, P, d, J, panels[0], true, d_qkv + keys + i * dv, W);
        add_gradient(N * D, nullptr, P, dv, d, J, qkv + keys + i * dv, W, d_head.data());
        for (idx j = 0; j < P; ++j) std::memcpy(d_project + (j * H + i) * dv, &d_head[j * dv], dv * sizeof(R));
    }
}

// The rows of a list, each the bias and what all heads read: output [.., n] of read [.., H, n].
template <typename R>
INLINE void sum_heads(idx count, const idx* rows, idx H, idx n, const R* read, const R* bias, R* output) {
    for (idx i = 0; i < count; ++i) {
        const R* __restrict from = read + rows[i] * H * n;
        R* __restrict to = output + rows[i] * n;
        std::memcpy(to, bias, n * sizeof(R));
        for (idx h = 0; h < H; ++h) SIMD for (idx j = 0; j < n; ++j) to[j] += from[h * n + j];
    }
}

template <typename R> INLINE void sum_heads_backward(idx count, const idx* rows, idx H, idx n, const R* d_output, R* d_read) {
    for (idx i = 0; i < count; ++i)
        for (idx h = 0; h < H; ++h)
            std::memcpy(d_read + (rows[i] * H + h) * n, d_output + rows[i] * n, n * sizeof(R));
}
