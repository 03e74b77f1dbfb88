// The loops over time of RIM, BRIMs and LSTM, and what is exported, for one set of instructions. `kernels.cpp` defines
// which, and how wide vectors and tiles are; this file undefines it.
// Products of small matrices are ours, those of an LSTM the BLAS' that torch brings. All are row-major.
namespace INSTRUCTIONS {
#include "kernels.h"

// c [count, n] = a [count, k] b, or added to c, for packed b [k, n]; rows are those in a list, or all if it is null.
template <typename R>
NOT_INLINE void row_product(idx count, const idx* rows, idx n, idx k, const R* a, idx lda, const R* panels, bool add, R* c,
                            idx ldc) {
    if (count <= FEW_ROWS)
        product_strips<R, FEW_ROWS, FEW_VECTORS>(count, rows, n, k, a, lda, panels, add, c, ldc);
    else
        product_strips<R, TILE_ROWS, TILE_VECTORS>(count, rows, n, k, a, lda, panels, add, c, ldc);
}

// c [k, n] += the transpose of a [count, k] times b [count, n]; rows as above.
template <typename R>
NOT_INLINE void add_gradient(idx count, const idx* rows, idx k, idx n, const R* a, idx lda, const R* b, idx ldb, R* c) {
    gradient_strips<R, TILE_ROWS, TILE_VECTORS>(count, rows, k, n, a, lda, b, ldb, c);
}

// c [m, n] = beta c + a [m, k] b [k, n]; with `transposed`, b is [n, k].
template <typename R>
INLINE void product(Gemm<R> gemm, idx m, idx n, idx k, const R* a, const R* b, bool transposed, R beta, R* c) {
    const int M = int(m), N = int(n), K = int(k), ldb = transposed ? K : N;
    const R one = 1;
    gemm(transposed ? "T" : "N", "N", &N, &M, &K, &one, b, &ldb, a, &K, &beta, c, &N);
}

// The attention of `attend` and `attend_backward`, compiled once for all that call it.
template <typename R>
NOT_INLINE void communicate(idx N, idx B, idx H, idx dk, idx dv, idx kept, idx others_only, const R* qkv, R* attention,
                            R* read) {
    attend(N, B, H, dk, dv, kept, others_only, qkv, attention, read);
}
template <typename R>
NOT_INLINE void communicate_backward(idx N, idx B, idx H, idx dk, idx dv, const R* qkv, const R* attention,
                                     const R* d_read, R* d_qkv, idx stride, const R* mask) {
    attend_backward(N, B, H, dk, dv, qkv, attention, d_read, d_qkv, stride, mask);
}

#include "joined.h"

// States lie row by row for others, [B, N, D], and unit by unit here, [N, B, D], with `stride` from unit to unit.
template <typename R> INLINE void units_first(idx N, idx B, idx D, const R* rows, R* units, idx stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) std::memcpy(units + n * stride + b * D, rows + (b * N + n) * D, D * sizeof(R));
}
template <typename R> INLINE void rows_first(idx N, idx B, idx D, const R* units, idx stride, R* rows) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) std::memcpy(rows + (b * N + n) * D, units + n * stride + b * D, D * sizeof(R));
}

// Rows that start an episode go back to the initial state.
template <typename R>
INLINE void reset(idx N, idx B, idx D, const uint8_t* starts, const R* initial, R* state, idx stride) {
    for (idx b = 0; b < B; ++b)
        if (starts[b])
            for (idx n = 0; n < N; ++n)
                std::memcpy(state + n * stride + b * D, initial + n * D, D * sizeof(R));
}

template <typename R> INLINE void reset_backward(idx N, idx B, idx D, const uint8_t* starts, R* d_initial, R* d_state) {
    for (idx b = 0; b < B; ++b)
        if (starts[b])
            for (idx n = 0; n < N; ++n) {
                R* __restrict d = d_state + (n * B + b) * D;
                R* __restrict d0 = d_initial + n * D;
                SIMD for (idx j = 0; j < D; ++j) {
                    d0[j] += d[j];
                    d[j] = 0;
                }
            }
}

// The rows of those units that are active, of `count` rows each with a mask; unit n's are the first `counts[n]` after n `count`.
template <typename R>
INLINE void list_active(idx N, idx count, const R* mask, idx* rows, idx* counts) {
    for (idx n = 0; n < N; ++n) {
        counts[n] = 0;
        for (idx b = 0; b < count; ++b)
            if (mask[n * count + b] != R(0)) rows[n * count + counts[n]++] = b;
    }
}

// Those of unit n of N in `steps` steps of B rows each; returns how many.
template <typename R> INLINE idx list_active_of(idx n, idx N, idx steps, idx B, const R* mask, idx* rows) {
    idx count = 0;
    for (idx t = 0; t < steps; ++t)
        for (idx b = 0; b < B; ++b)
            if (mask[(t * N + n) * B + b] != R(0)) rows[count++] = t * B + b;
    return count;
}

// sum [n] += a [n].
template <typename R> INLINE void add_to(idx n, const R* __restrict a, R* __restrict sum) {
    SIMD for (idx j = 0; j < n; ++j) sum[j] += a[j];
}

// sum [n] += the rows of a list, [count, n].
template <typename R> INLINE void add_rows(idx count, const idx* rows, idx n, const R* a, R* __restrict sum) {
    for (idx i = 0; i < count; ++i) {
        const R* __restrict row = a + rows[i] * n;
        SIMD for (idx j = 0; j < n; ++j) sum[j] += row[j];
    }
}

template <typename R> INLINE void rim_forward(const RIMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, dv = s->is_joined ? 2 * D : s->dv;
    const idx W = s->H * (2 * s->dk + dv), V = s->H * dv;
    const idx state = (T + 1) * step, kept = s->keep ? T * step : step, Q = s->key_size, U = s->value_size;
    const idx key_steps = s->keep ? T : s->chunk;
    PackedMemory<R> packed = {s->packed, s->is_packed != 0};
    std::vector<R> joined(s->is_joined && !s->is_packed ? N * D * W : 0);
    if (!joined.empty()) join(N, D, s->H, s->dk, s->dv, s->query_key_value, s->project, joined.data());
    const R one = 1, scale = one / std::sqrt(R(Q));
    const Panels<R> key(1, s->I, Q, s->key, false, scale, &packed), value(1, s->I, U, s->value, false, one, &packed),
        query(N, Q, D, s->query, true, one, &packed), weight_input(N, U, 4 * D, s->weight_input, false, one, &packed),
        weight_hidden(N, D, 4 * D, s->weight_hidden, false, one, &packed),
        weight_qkv(N, D, W, s->is_joined ? joined.data() : s->query_key_value, false, one, &packed),
        project(s->is_joined ? 0 : 1, V, 2 * D, s->project, true, one, &packed);
    const std::unique_ptr<idx[]> active(new idx[N * B]);
    units_first(N, B, D, s->h_first, s->h, state);
    units_first(N, B, D, s->c_first, s->c, state);
    for (idx t = 0; t < T; ++t) {
        const idx slot = s->keep ? t : 0, rows = slot * N * B, in_chunk = t % s->chunk;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + rows * 4 * D, *mask = s->mask + rows;
        R *h_new = s->h_new + slot * step, *output = s->output + rows * 2 * D;
        R *unit_keys = s->unit_keys + (s->keep ? t : in_chunk) * step, *reads = s->reads + in_chunk * 4 * step;
        if (in_chunk == 0) {
            const idx count = (T - t < s->chunk ? T - t : s->chunk) * B;
            const R* x = s->x + t * B * s->I;
            R *keys = s->keys + (s->keep ? t * B * Q : 0), *values = s->values + (s->keep ? t * B * U : 0);
            row_product(count, nullptr, Q, s->I, x, s->I, key[0], false, keys, Q);
            row_product(count, nullptr, U, s->I, x, s->I, value[0], false, values, U);
            for (idx n = 0; n < N; ++n) {
                row_product(count, nullptr, D, Q, keys, Q, query[n], false, unit_keys + n * key_steps * step, D);
                row_product(count, nullptr, 4 * D, U, values, U, weight_input[n], false,
                            reads + n * s->chunk * 4 * step, 4 * D);
            }
        }
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        compete(N, B, D, 4 * D, s->K, (const R*)h, state, (const R*)unit_keys, key_steps * step, (const R*)reads,
                4 * s->chunk * step, s->bias, gates, s->share + rows, mask);
        for (idx n = 0; n < N; ++n)
            row_product(B, nullptr, 4 * D, D, h + n * state, D, weight_hidden[n], true, gates + n * B * 4 * D, 4 * D);
        lstm(N, B, D, gates, (const R*)c, state, (const R*)mask, s->tanh_c + rows * D, h_new, kept, c + step, state);
        for (idx n = 0; n < N; ++n)
            row_product(B, nullptr, W, D, h_new + n * kept, D, weight_qkv[n], false, s->qkv + n * B * W, W);
        communicate(N, B, s->H, s->dk, dv, N, idx(0), (const R*)s->qkv, s->attention + slot * B * s->H * N * N, s->read);
        idx count;
        list_active(1, N * B, (const R*)mask, active.get(), &count);
        if (s->is_joined) {
            sum_heads(count, (const idx*)active.get(), s->H, 2 * D, (const R*)s->read, s->project_bias, output);
        } else {
            for (idx i = 0; i < count; ++i) std::memcpy(output + active[i] * 2 * D, s->project_bias, 2 * D * sizeof(R));
            row_product(count, active.get(), 2 * D, V, s->read, V, project[0], true, output, 2 * D);
        }
        update(N, B, D, output, (const R*)h_new, kept, (const R*)h, state, (const R*)mask, h + step, state,
               s->y + t * s->y_step);
    }
    rows_first(N, B, D, (const R*)s->h + T * step, state, s->h_last);
    rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
}

// Gradients of what the gates and the queries are made of, of the steps of one chunk from `t` on.
template <typename R>
INLINE void rim_chunk_backward(const RIMSequence<R>* s, idx t, const Panels<R>& query, const Panels<R>& key,
                               const Panels<R>& value, idx W, R* d_weight_qkv, idx* active) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D;
    const idx Q = s->key_size, U = s->value_size, steps = T - t < s->chunk ? T - t : s->chunk;
    R* h_scaled = s->h_scaled;
    std::memset(s->d_keys, 0, steps * B * Q * sizeof(R));
    for (idx n = 0; n < N; ++n) {
        const R* h = s->h + (n * (T + 1) + t) * step;
        R* d_gates = s->d_gates + n * s->chunk * 4 * step;
        add_gradient(steps * B, nullptr, D, W, s->h_new + (n * T + t) * step, D, s->d_qkv + n * s->chunk * B * W, W,
                     d_weight_qkv + n * D * W);
        const idx count = list_active_of(n, N, steps, B, (const R*)s->mask + t * N * B, active);
        add_rows(count, active, 4 * D, (const R*)d_gates, s->d_bias + n * 4 * D);
        add_gradient(count, active, D, 4 * D, h, D, d_gates, 4 * D, s->d_weight_hidden + n * D * 4 * D);
        for (idx i = 0; i < count; ++i) {
            const idx row = active[i], at = (row / B * N + n) * B + row % B;
            const R share = s->share[t * N * B + at], d_score = s->d_scores[at];
            R* __restrict d = d_gates + row * 4 * D;
            const R* __restrict h_row = h + row * D;
            R* __restrict scaled = h_scaled + row * D;
            SIMD for (idx j = 0; j < 4 * D; ++j) d[j] *= share;
            SIMD for (idx j = 0; j < D; ++j) scaled[j] = d_score * h_row[j];
        }
        add_gradient(count, active, U, 4 * D, s->values + t * B * U, U, d_gates, 4 * D,
                     s->d_weight_input + n * U * 4 * D);
        add_gradient(count, active, D, Q, h_scaled, D, s->keys + t * B * Q, Q, s->d_query + n * D * Q);
        row_product(count, active, Q, D, h_scaled, D, query[n], true, s->d_keys, Q);
    }
    const R scale = R(1) / std::sqrt(R(Q));
    SIMD for (idx j = 0; j < steps * B * Q; ++j) s->d_keys[j] *= scale;
    const idx I = s->I, rows = steps * B;
    const R* x = s->x + t * B * I;
    add_gradient(rows, nullptr, I, Q, x, I, s->d_keys, Q, s->d_key);
    add_gradient(rows, nullptr, I, U, x, I, s->d_values, U, s->d_value);
    if (!s->dx) return;
    row_product(rows, nullptr, I, Q, s->d_keys, Q, key[0], false, s->dx + t * B * I, I);
    row_product(rows, nullptr, I, U, s->d_values, U, value[0], true, s->dx + t * B * I, I);
}

template <typename R> INLINE void rim_backward(const RIMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, dv = s->is_joined ? 2 * D : s->dv;
    const idx W = s->H * (2 * s->dk + dv), V = s->H * dv, all = s->is_joined ? N * D * W : 0;
    const idx state = (T + 1) * step, Q = s->key_size, U = s->value_size;
    std::vector<R> joined(all), d_joined(all);
    if (s->is_joined) join(N, D, s->H, s->dk, s->dv, s->query_key_value, s->project, joined.data());
    const R* qkv_weight = s->is_joined ? joined.data() : s->query_key_value;
    R* d_qkv_weight = s->is_joined ? d_joined.data() : s->d_query_key_value;
    const Panels<R> key(1, Q, s->I, s->key, true), value(1, U, s->I, s->value, true), query(N, D, Q, s->query, false),
        weight_input(N, 4 * D, U, s->weight_input, true), weight_hidden(N, 4 * D, D, s->weight_hidden, true),
        weight_qkv(N, D, W, qkv_weight, false), weight_qkv_back(N, W, D, qkv_weight, true),
        project(s->is_joined ? 0 : 1, 2 * D, V, s->project, false);
    const std::unique_ptr<idx[]> lists(new idx[(N + 1) * B + N * B + s->chunk * B]);
    idx *active = lists.get(), *active_all = active + N * B, *active_chunk = active_all + N * B, counts[MAX_UNITS];
    units_first(N, B, D, s->dh_last, s->dh, step);
    units_first(N, B, D, s->dc_last, s->dc, step);
    for (idx t = T - 1; t >= 0; --t) {
        const idx rows = t * N * B, in_chunk = t % s->chunk;
        const R *mask = s->mask + rows, *share = s->share + rows, *h_new = s->h_new + t * step;
        R *d_qkv = s->d_qkv + in_chunk * B * W, *d_gates = s->d_gates + 4 * in_chunk * step, *d_output = s->d_output;
        if (in_chunk == s->chunk - 1 || t == T - 1) std::memset(s->d_values, 0, s->chunk * B * U * sizeof(R));
        idx count;
        list_active(N, B, mask, active, counts);
        list_active(idx(1), N * B, mask, active_all, &count);
        update_backward(N, B, D, s->dy + t * s->y_step, s->dh, mask, (const R*)s->output + rows * 2 * D, s->dh_new,
                        d_output);
        std::memset(s->d_read, 0, N * B * V * sizeof(R));
        if (s->is_joined)
            sum_heads_backward(count, (const idx*)active_all, s->H, 2 * D, (const R*)d_output, s->d_read);
        else
            row_product(count, active_all, V, 2 * D, d_output, 2 * D, project[0], false, s->d_read, V);
        for (idx n = 0; n < N; ++n)
            row_product(B, nullptr, W, D, h_new + n * T * step, D, weight_qkv[n], false, s->qkv + n * B * W, W);
        const R* attention = s->attention + t * B * s->H * N * N;
        if (!s->is_joined) {
            read_others(N, B, s->H, s->dk, dv, (const R*)s->qkv, attention, s->read);
            add_gradient(count, active_all, 2 * D, V, d_output, 2 * D, s->read, V, s->d_project);
        }
        add_rows(count, active_all, 2 * D, (const R*)d_output, s->d_project_bias);
        communicate_backward(N, B, s->H, s->dk, dv, (const R*)s->qkv, attention, (const R*)s->d_read, d_qkv,
                             s->chunk * B * W, mask);
        for (idx n = 0; n < N; ++n)
            row_product(counts[n], active + n * B, D, W, d_qkv + n * s->chunk * B * W, W, weight_qkv_back[n], false,
                        s->d_h_read + n * step, D);
        lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->d_h_read, mask, (const R*)s->gates + rows * 4 * D,
                      (const R*)s->tanh_c + rows * D, (const R*)s->c + t * step, state, s->dc, d_gates,
                      4 * s->chunk * step);
        for (idx n = 0; n < N; ++n) {
            const R* d = d_gates + n * 4 * s->chunk * step;
            row_product(counts[n], active + n * B, D, 4 * D, d, 4 * D, weight_hidden[n], false, s->dh_gates, D);
            row_product(counts[n], active + n * B, U, 4 * D, d, 4 * D, weight_input[n], false, s->d_input, U);
            compete_backward(B, D, U, (const R*)s->d_input, (const R*)s->values + t * B * U,
                             (const R*)s->unit_keys + (n * T + t) * step, share + n * B, mask + n * B,
                             (const R*)s->dh_gates, s->d_values + in_chunk * B * U, s->d_scores + (in_chunk * N + n) * B,
                             s->dh + n * step);
        }
        if (in_chunk == 0) rim_chunk_backward(s, t, query, key, value, W, d_qkv_weight, active_chunk);
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
    rows_first(N, B, D, (const R*)s->dh, step, s->dh_first);
    rows_first(N, B, D, (const R*)s->dc, step, s->dc_first);
    if (s->is_joined)
        join_backward(N, D, s->H, s->dk, s->dv, s->query_key_value, s->project, (const R*)d_joined.data(),
                      s->d_query_key_value, s->d_project);
}

template <typename R> INLINE void lstm_sequence_forward(const LSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    const Panels<R> weight_hidden(s->gemm ? 0 : N, D, 4 * D, s->weight_hidden, false);
    units_first(N, B, D, s->h_first, s->h, state);
    units_first(N, B, D, s->c_first, s->c, state);
    for (idx t = 0; t < T; ++t) {
        const idx rows = (s->keep ? t : 0) * N * B;
        R *h = s->h + t * step, *c = s->c + t * step, *gates = s->gates + rows * 4 * D;
        if (s->starts) {
            reset(N, B, D, s->starts + t * B, s->h_start, h, state);
            reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        }
        for (idx n = 0; n < N; ++n) {
            std::memcpy(gates + n * 4 * step, s->input_gates + 4 * (n * T + t) * step, 4 * step * sizeof(R));
            if (s->gemm)
                product(s->gemm, B, 4 * D, D, h + n * state, s->weight_hidden + n * 4 * D * D, false, R(1),
                        gates + n * 4 * step);
            else
                row_product(B, nullptr, 4 * D, D, h + n * state, D, weight_hidden[n], true, gates + n * 4 * step, 4 * D);
        }
        lstm(N, B, D, gates, (const R*)c, state, s->ones, s->tanh_c + rows * D, h + step, state, c + step, state);
        rows_first(N, B, D, (const R*)h + step, state, s->y + t * s->y_step);
    }
    rows_first(N, B, D, (const R*)s->h + T * step, state, s->h_last);
    rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
}

template <typename R> INLINE void lstm_sequence_backward(const LSTMSequence<R>* s) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    const Panels<R> weight_hidden(s->gemm ? 0 : N, 4 * D, D, s->weight_hidden, true);
    units_first(N, B, D, s->dh_last, s->dh, step);
    units_first(N, B, D, s->dc_last, s->dc, step);
    for (idx t = T - 1; t >= 0; --t) {
        const idx rows = t * N * B;
        for (idx n = 0; n < N; ++n)
            for (idx b = 0; b < B; ++b) {
                const R* __restrict dy = s->dy + t * s->y_step + (b * N + n) * D;
                const R* __restrict dh = s->dh + (n * B + b) * D;
                R* __restrict sum = s->dh_new + (n * B + b) * D;
                SIMD for (idx j = 0; j < D; ++j) sum[j] = dh[j] + dy[j];
            }
        R* d_gates = s->d_gates + 4 * t * step;
        lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->nothing, s->ones, (const R*)s->gates + rows * 4 * D,
                      (const R*)s->tanh_c + rows * D, (const R*)s->c + t * step, state, s->dc, d_gates, 4 * T * step);
        for (idx n = 0; n < N; ++n)
            if (s->gemm)
                product(s->gemm, B, D, 4 * D, d_gates + n * 4 * T * step, s->weight_hidden + n * 4 * D * D, true, R(0),
                        s->dh + n * step);
            else
                row_product(B, nullptr, D, 4 * D, d_gates + n * 4 * T * step, 4 * D, weight_hidden[n], false,
                            s->dh + n * step, D);
        if (s->starts) {
            reset_backward(N, B, D, s->starts + t * B, s->dh_start, s->dh);
            reset_backward(N, B, D, s->starts + t * B, s->dc_start, s->dc);
        }
    }
    rows_first(N, B, D, (const R*)s->dh, step, s->dh_first);
    rows_first(N, B, D, (const R*)s->dc, step, s->dc_first);
}

template <typename R> struct BRIMsPanels {
    Panels<R> query, below_key, below_value, above_key, above_value, weight_input, weight_hidden, weight_qkv, project;
    std::vector<R> d_joined;
};

// Width of a value as units read it.
template <typename R> idx brims_value_width(const BRIMsLayer<R>* s) { return s->is_joined ? 2 * s->D : s->dv; }

// The matrix b [k, n] of each of N units, or its transpose.
template <typename R>
Panels<R> panels_of(bool transposed, idx N, idx k, idx n, const R* b, PackedMemory<R>& packed) {
    return transposed ? Panels<R>(N, n, k, b, true, R(1), &packed) : Panels<R>(N, k, n, b, false, R(1), &packed);
}

// The matrices of a layer of BRIMs as the forward pass needs them, or as the backward pass does.
template <typename R> BRIMsPanels<R> brims_layer_panels(const BRIMsLayer<R>* s, bool back) {
    const idx N = s->N, D = s->D, W = N * D, Q = s->heads * s->key_size, U = s->heads * s->value_size;
    const idx below = s->below != 0, above = s->above != 0, dv = brims_value_width(s), F = s->H * (2 * s->dk + dv);
    PackedMemory<R> packed = {back ? nullptr : s->packed, s->is_packed != 0};
    const bool is_filled = packed.next && packed.filled;
    std::vector<R> joined(s->is_joined && !is_filled ? N * D * F : 0), d_joined(back ? joined.size() : 0);
    if (!joined.empty()) join(N, D, s->H, s->dk, s->dv, s->weight_qkv, s->project, joined.data());
    return {panels_of(back, N, D, Q, s->query, packed),
            panels_of(back, below, W, Q, s->below_key, packed),
            panels_of(back, below, W, U, s->below_value, packed),
            panels_of(back, above, W, Q, s->above_key, packed),
            panels_of(back, above, W, U, s->above_value, packed),
            panels_of(back, N, U, 4 * D, s->weight_input, packed),
            panels_of(back, N, D, 4 * D, s->weight_hidden, packed),
            panels_of(back, N, D, F, s->is_joined ? (const R*)joined.data() : s->weight_qkv, packed),
            panels_of(!back, idx(!s->is_joined), 2 * D, s->H * dv, s->project, packed),
            std::move(d_joined)};
}

// What a layer of BRIMs starts a step from; the rows of its state are side by side what other layers read.
template <typename R> INLINE void brims_layer_start(const BRIMsLayer<R>* s, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, state = (T + 1) * step;
    R *h = s->h + t * step, *c = s->c + t * step, *rows = s->rows + t * N * step;
    if (t == 0) {
        std::memcpy(rows, s->h_first, N * step * sizeof(R));
        units_first(N, B, D, s->h_first, h, state);
        units_first(N, B, D, s->c_first, c, state);
    }
    if (s->starts) {
        reset(N, B, D, s->starts + t * B, s->h_start, h, state);
        reset(N, B, D, s->starts + t * B, s->c_start, c, state);
        reset(idx(1), B, N * D, s->starts + t * B, s->h_start, rows, idx(0));
    }
}

// Keys and values of all that a layer reads in a step. Where that is the input alone, they lie there.
template <typename R> INLINE const R* brims_keys(const BRIMsLayer<R>* s, idx t) {
    return (s->below || s->above ? s->keys : s->input_keys) + t * s->B * s->heads * s->key_size;
}
template <typename R> INLINE const R* brims_values(const BRIMsLayer<R>* s, idx t) {
    return (s->below || s->above ? s->values : s->input_values) + t * s->B * s->heads * s->value_size;
}

template <typename R> INLINE void brims_layer_forward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, W = N * D, state = (T + 1) * step;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, dv = brims_value_width(s);
    const idx V = s->H * dv, F = s->H * (2 * s->dk + dv), slot = s->keep ? t : 0, at = slot * N * B, kept = s->keep ? T : 1;
    R *h = s->h + t * step, *c = s->c + t * step;
    R *gates = s->gates + at * 4 * D, *mask = s->mask + at, *read = s->read + slot * B * U;
    R *queries = s->queries + at * Q, *h_new = s->h_new + slot * step, *qkv = s->qkv + at * F;
    R *received = s->received + at * V, *output = s->output + at * 2 * D, *layer_output = s->outputs + slot * B * W;
    const bool further = s->below || s->above;
    R *keys = s->keys + (further ? t * B * Q : 0), *values = s->values + (further ? t * B * U : 0);
    const R *all_keys = brims_keys(s, t), *all_values = brims_values(s, t);
    idx M = s->M;
    for (idx m = 0; further && m < M; ++m) {
        std::memcpy(keys + m * T * B * Q, s->input_keys + (m * T + t) * B * Q, B * Q * sizeof(R));
        std::memcpy(values + m * T * B * U, s->input_values + (m * T + t) * B * U, B * U * sizeof(R));
    }
    if (s->below) {
        const R* seen = (s - s->below)->outputs + slot * B * W;
        row_product(B, nullptr, Q, W, seen, W, panels.below_key[0], false, keys + M * T * B * Q, Q);
        row_product(B, nullptr, U, W, seen, W, panels.below_value[0], false, values + M++ * T * B * U, U);
    }
    if (s->above) {
        const R* seen = (s + s->above)->rows + t * B * W;
        row_product(B, nullptr, Q, W, seen, W, panels.above_key[0], false, keys + M * T * B * Q, Q);
        row_product(B, nullptr, U, W, seen, W, panels.above_value[0], false, values + M++ * T * B * U, U);
    }
    for (idx n = 0; n < N; ++n)
        row_product(B, nullptr, Q, D, h + n * state, D, panels.query[n], false, queries + n * B * Q, Q);
    read_elements(N, B, s->heads, s->key_size, s->value_size, M, (const R*)queries, all_keys, T * B * Q, all_values,
                  T * B * U, s->weights + at * s->heads * (1 + M), s->priority + at, read, kept * B * U);
    choose(N, B, s->K, (const R*)s->priority + at, mask);
    for (idx n = 0; n < N; ++n) {
        R* g = gates + n * 4 * step;
        for (idx b = 0; b < B; ++b) std::memcpy(g + b * 4 * D, s->bias + n * 4 * D, 4 * D * sizeof(R));
        row_product(B, nullptr, 4 * D, U, read + n * kept * B * U, U, panels.weight_input[n], true, g, 4 * D);
        row_product(B, nullptr, 4 * D, D, h + n * state, D, panels.weight_hidden[n], true, g, 4 * D);
    }
    lstm(N, B, D, gates, (const R*)c, state, (const R*)mask, s->tanh_c + at * D, h_new, kept * step, c + step, state);
    for (idx n = 0; n < N; ++n)
        row_product(B, nullptr, F, D, h_new + n * kept * step, D, panels.weight_qkv[n], false, qkv + n * B * F, F);
    communicate(N, B, s->H, s->dk, dv, N, idx(0), (const R*)qkv, s->attention + slot * B * s->H * N * N, received);
    idx count;
    list_active(idx(1), N * B, (const R*)mask, active, &count);
    if (s->is_joined) {
        sum_heads(count, (const idx*)active, s->H, 2 * D, (const R*)received, s->project_bias, output);
    } else {
        for (idx i = 0; i < count; ++i) std::memcpy(output + active[i] * 2 * D, s->project_bias, 2 * D * sizeof(R));
        row_product(count, active, 2 * D, V, received, V, panels.project[0], true, output, 2 * D);
    }
    update(N, B, D, output, (const R*)h_new, kept * step, (const R*)h, state, (const R*)mask, h + step, state, layer_output);
    std::memcpy(s->rows + (t + 1) * B * W, layer_output, B * W * sizeof(R));
    if (s->y) std::memcpy(s->y + t * s->y_step, layer_output, B * W * sizeof(R));
    if (t == T - 1) {
        std::memcpy(s->h_last, layer_output, B * W * sizeof(R));
        rows_first(N, B, D, (const R*)c + step, state, s->c_last);
    }
}

template <typename R>
INLINE void brims_layer_backward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, W = N * D, state = (T + 1) * step;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, dv = brims_value_width(s);
    const idx V = s->H * dv, F = s->H * (2 * s->dk + dv), at = t * N * B, M = s->M + (s->below ? 1 : 0) + (s->above ? 1 : 0);
    const idx in_chunk = t % s->chunk, slots = s->chunk * B;
    const R *mask = s->mask + at, *weights = s->weights + at * s->heads * (1 + M);
    R *d_output = s->d_output, *d_qkv = s->d_qkv + in_chunk * B * F, *d_gates = s->d_gates + 4 * in_chunk * step;
    R *d_queries = s->d_queries + in_chunk * B * Q, *d_keys = s->d_keys + t * B * Q, *d_values = s->d_values + t * B * U;
    if (s->dy) add_to(B * W, s->dy + t * s->y_step, s->d_rows);
    update_backward(N, B, D, (const R*)s->d_rows, s->dh, mask, (const R*)s->output + at * 2 * D, s->dh_new, d_output);
    std::memset(s->d_rows, 0, B * W * sizeof(R));
    idx count, counts[MAX_UNITS];
    list_active(idx(1), N * B, mask, active, &count);
    std::memset(s->d_received, 0, N * B * V * sizeof(R));
    if (s->is_joined) {
        sum_heads_backward(count, (const idx*)active, s->H, 2 * D, (const R*)d_output, s->d_received);
    } else {
        row_product(count, active, V, 2 * D, d_output, 2 * D, panels.project[0], false, s->d_received, V);
        add_gradient(count, active, 2 * D, V, d_output, 2 * D, s->received + at * V, V, s->d_project);
    }
    add_rows(count, active, 2 * D, (const R*)d_output, s->d_project_bias);
    communicate_backward(N, B, s->H, s->dk, dv, (const R*)s->qkv + at * F,
                         (const R*)s->attention + t * B * s->H * N * N, (const R*)s->d_received, d_qkv, slots * F, mask);
    list_active(N, B, mask, active, counts);
    for (idx n = 0; n < N; ++n)
        row_product(counts[n], active + n * B, D, F, d_qkv + n * slots * F, F, panels.weight_qkv[n], false,
                    s->d_h_read + n * step, D);
    lstm_backward(N, B, D, (const R*)s->dh_new, (const R*)s->d_h_read, mask, (const R*)s->gates + at * 4 * D,
                  (const R*)s->tanh_c + at * D, (const R*)s->c + t * step, state, s->dc, d_gates, 4 * slots * D);
    for (idx n = 0; n < N; ++n) {
        const R* d = d_gates + n * 4 * slots * D;
        row_product(counts[n], active + n * B, D, 4 * D, d, 4 * D, panels.weight_hidden[n], true, s->dh + n * step, D);
        row_product(counts[n], active + n * B, U, 4 * D, d, 4 * D, panels.weight_input[n], false, s->d_read + n * B * U, U);
    }
    read_elements_backward(N, B, s->heads, s->key_size, s->value_size, M, (const R*)s->queries + at * Q,
                           brims_keys(s, t), T * B * Q, brims_values(s, t), T * B * U, weights, mask,
                           (const R*)s->d_read, d_queries, slots * Q, d_keys, d_values);
    for (idx n = 0; n < N; ++n)
        row_product(counts[n], active + n * B, D, Q, d_queries + n * slots * Q, Q, panels.query[n], true,
                    s->dh + n * step, D);
    idx m = s->M;
    if (s->below) {
        R* d_seen = (s - s->below)->d_rows;
        row_product(B, nullptr, W, Q, d_keys + m * T * B * Q, Q, panels.below_key[0], true, d_seen, W);
        row_product(B, nullptr, W, U, d_values + m++ * T * B * U, U, panels.below_value[0], true, d_seen, W);
    }
    if (s->above) {
        R* d_seen = (s + s->above)->d_rows;
        row_product(B, nullptr, W, Q, d_keys + m * T * B * Q, Q, panels.above_key[0], true, d_seen, W);
        row_product(B, nullptr, W, U, d_values + m * T * B * U, U, panels.above_value[0], true, d_seen, W);
    }
}

// Gradients of a layer's weights, of the steps of one chunk from `t` on, as far as they can wait for all of them.
template <typename R> INLINE void brims_chunk_backward(const BRIMsLayer<R>* s, BRIMsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, step = B * D, W = N * D, steps = T - t < s->chunk ? T - t : s->chunk;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, F = s->H * (2 * s->dk + brims_value_width(s));
    const idx rows = steps * B;
    R* d_qkv_weight = s->is_joined ? panels.d_joined.data() : s->d_weight_qkv;
    for (idx n = 0; n < N; ++n) {
        const idx count = list_active_of(n, N, steps, B, (const R*)s->mask + t * N * B, active);
        const idx at = (n * T + t) * B, in_chunk = n * s->chunk * B;
        const R *h = s->h + (n * (T + 1) + t) * step, *d_gates = s->d_gates + in_chunk * 4 * D;
        add_rows(count, active, 4 * D, d_gates, s->d_bias + n * 4 * D);
        add_gradient(count, active, D, 4 * D, h, D, d_gates, 4 * D, s->d_weight_hidden + n * D * 4 * D);
        add_gradient(count, active, U, 4 * D, s->read + at * U, U, d_gates, 4 * D, s->d_weight_input + n * U * 4 * D);
        add_gradient(count, active, D, Q, h, D, s->d_queries + in_chunk * Q, Q, s->d_query + n * D * Q);
        add_gradient(rows, nullptr, D, F, s->h_new + at * D, D, s->d_qkv + in_chunk * F, F, d_qkv_weight + n * D * F);
    }
    idx m = s->M;
    if (s->below) {
        const R* seen = (s - s->below)->outputs + t * B * W;
        add_gradient(rows, nullptr, W, Q, seen, W, s->d_keys + (m * T + t) * B * Q, Q, s->d_below_key);
        add_gradient(rows, nullptr, W, U, seen, W, s->d_values + (m++ * T + t) * B * U, U, s->d_below_value);
    }
    if (s->above) {
        const R* seen = (s + s->above)->rows + t * B * W;
        add_gradient(rows, nullptr, W, Q, seen, W, s->d_keys + (m * T + t) * B * Q, Q, s->d_above_key);
        add_gradient(rows, nullptr, W, U, seen, W, s->d_values + (m * T + t) * B * U, U, s->d_above_value);
    }
}

template <typename R> INLINE void brims_layer_last_backward(const BRIMsLayer<R>* s) {
    units_first(s->N, s->B, s->D, s->dh_last, s->dh, s->B * s->D);
    units_first(s->N, s->B, s->D, s->dc_last, s->dc, s->B * s->D);
    std::memset(s->d_rows, 0, s->B * s->N * s->D * sizeof(R));
}

template <typename R> INLINE void brims_layer_first_backward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels) {
    rows_first(s->N, s->B, s->D, (const R*)s->dh, s->B * s->D, s->dh_first);
    rows_first(s->N, s->B, s->D, (const R*)s->dc, s->B * s->D, s->dc_first);
    add_to(s->B * s->N * s->D, (const R*)s->d_rows, s->dh_first);
    if (s->is_joined)
        join_backward(s->N, s->D, s->H, s->dk, s->dv, s->weight_qkv, s->project, panels.d_joined.data(), s->d_weight_qkv,
                      s->d_project);
}

template <typename R> INLINE void brims_layer_start_backward(const BRIMsLayer<R>* s, idx t) {
    if (!s->starts) return;
    const uint8_t* starts = s->starts + t * s->B;
    reset_backward(s->N, s->B, s->D, starts, s->dh_start, s->dh);
    reset_backward(s->N, s->B, s->D, starts, s->dc_start, s->dc);
    reset_backward(idx(1), s->B, s->N * s->D, starts, s->dh_start, s->d_rows);
}

template <typename R> std::vector<BRIMsPanels<R>> brims_panels(idx L, const BRIMsLayer<R>* layers, bool back) {
    std::vector<BRIMsPanels<R>> panels;
    for (idx l = 0; l < L; ++l) panels.push_back(brims_layer_panels(layers + l, back));
    return panels;
}

// Room for the active rows of any layer, in any chunk.
template <typename R> std::vector<idx> brims_rows(idx L, const BRIMsLayer<R>* layers) {
    idx units = layers->chunk;
    for (idx l = 0; l < L; ++l) units = units < layers[l].N ? layers[l].N : units;
    return std::vector<idx>(units * layers->B);
}

template <typename R> INLINE void brims_forward(const BRIMsLayer<R>* layers) {
    const idx L = layers->L;
    const auto panels = brims_panels(L, layers, false);
    auto rows = brims_rows(L, layers);
    for (idx t = 0; t < layers->T; ++t) {
        for (idx l = 0; l < L; ++l) brims_layer_start(layers + l, t);
        for (idx l = 0; l < L; ++l) brims_layer_forward(layers + l, panels[l], rows.data(), t);
    }
}

template <typename R> INLINE void brims_backward(const BRIMsLayer<R>* layers) {
    const idx L = layers->L;
    auto panels = brims_panels(L, layers, true);
    auto rows = brims_rows(L, layers);
    for (idx l = 0; l < L; ++l) brims_layer_last_backward(layers + l);
    for (idx t = layers->T - 1; t >= 0; --t) {
        for (idx l = L - 1; l >= 0; --l) brims_layer_backward(layers + l, panels[l], rows.data(), t);
        if (t % layers->chunk == 0)
            for (idx l = 0; l < L; ++l) brims_chunk_backward(layers + l, panels[l], rows.data(), t);
        for (idx l = 0; l < L; ++l) brims_layer_start_backward(layers + l, t);
    }
    for (idx l = 0; l < L; ++l) brims_layer_first_backward(layers + l, panels[l]);
}

#include "riglstm.h"
#include "rmc.h"
}  // namespace INSTRUCTIONS

#define ENTRY(NAME, ARGUMENTS_F, ARGUMENTS_D, CALL)                                             \
    KERNEL TARGET void EXPORTED(NAME##_float32) ARGUMENTS_F { INSTRUCTIONS::NAME CALL; } \
    KERNEL TARGET void EXPORTED(NAME##_float64) ARGUMENTS_D { INSTRUCTIONS::NAME CALL; }
#define BOTH(NAME, LIST, CALL) ENTRY(NAME, LIST(float), LIST(double), CALL)

#define A2(R) (idx N, idx B, idx D, R* gates, const R* c, idx cs, const R* mask, R* tc, R* hn, idx hns, R* co, idx cos)
BOTH(lstm, A2, (N, B, D, gates, c, cs, mask, tc, hn, hns, co, cos))
#define A3(R) (idx N, idx B, idx H, idx dk, idx dv, idx kept, idx others, const R* qkv, R* attention, R* read)
BOTH(attend, A3, (N, B, H, dk, dv, kept, others, qkv, attention, read))
#define A6(R) (idx N, idx B, idx H, idx dk, idx dv, const R* qkv, const R* attention, const R* d_read, R* d_qkv, idx ds)
BOTH(attend_backward, A6, (N, B, H, dk, dv, qkv, attention, d_read, d_qkv, ds))
#define A7(R) (idx N, idx B, idx D, const R* dh_new, const R* d_read, const R* mask, const R* a, const R* tc, const R* c, idx cs, R* dc, R* dg, idx dgs)
BOTH(lstm_backward, A7, (N, B, D, dh_new, d_read, mask, a, tc, c, cs, dc, dg, dgs))
#define S1(R) (const RIMSequence<R>* s)
BOTH(rim_forward, S1, (s))
BOTH(rim_backward, S1, (s))
#define S2(R) (const LSTMSequence<R>* s)
BOTH(lstm_sequence_forward, S2, (s))
BOTH(lstm_sequence_backward, S2, (s))
#define S4(R) (const RigLSTMSequence<R>* s)
BOTH(riglstm_forward, S4, (s))
BOTH(riglstm_backward, S4, (s))
#define S5(R) (const RMCSequence<R>* s)
BOTH(rmc_forward, S5, (s))
BOTH(rmc_backward, S5, (s))
#define S3(R) (const BRIMsLayer<R>* layers)
BOTH(brims_forward, S3, (layers))
BOTH(brims_backward, S3, (layers))
#define A9(R) (idx N, idx B, idx K, const R* priority, R* mask)
BOTH(choose, A9, (N, B, K, priority, mask))
#define A10(R) (idx N, idx B, idx V, idx dk, idx F, idx kept, const R* q, const R* k, const R* v, R* attention, R* mean, R* read)
BOTH(select_views, A10, (N, B, V, dk, F, kept, q, k, v, attention, mean, read))
#define A11(R) (idx N, idx B, idx V, idx dk, idx F, const R* q, const R* k, const R* v, const R* attention, const R* d_read, R* dq, idx dqs, R* d_k, R* d_v)
BOTH(select_views_backward, A11, (N, B, V, dk, F, q, k, v, attention, d_read, dq, dqs, d_k, d_v))
#define A12(R) (idx N, idx B, idx D, const R* hn, const R* h, idx hs, R* means)
BOTH(soft_means, A12, (N, B, D, hn, h, hs, means))
#define A13(R) (idx N, idx B, idx D, const R* hn, const R* h, idx hs, const R* w, const R* mask, R* share, R* ho, idx hos, R* y)
BOTH(soft_update, A13, (N, B, D, hn, h, hs, w, mask, share, ho, hos, y))
#define A14(R) (idx N, idx B, idx D, const R* dy, const R* hn, const R* h, idx hs, const R* w, const R* mask, const R* share, R* dh, R* dhn, R* dw)
BOTH(soft_update_backward, A14, (N, B, D, dy, hn, h, hs, w, mask, share, dh, dhn, dw))
#define A15(R) (idx N, idx B, idx D, const R* d_means, R* dhn, R* dh)
BOTH(soft_means_backward, A15, (N, B, D, d_means, dhn, dh))

#undef INSTRUCTIONS
#undef TARGET
#undef WIDE_BYTES
#undef NARROW_BYTES
#undef TILE_ROWS
#undef TILE_VECTORS
#undef FEW_ROWS
#undef FEW_VECTORS
