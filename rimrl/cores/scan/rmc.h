// The relational memory core's loop over time; part of `loops.h`. Rows of a step are [R, B, F]: slots, then elements.

// `x` becomes its normalised self; `out` that times a scale, plus a shift.
template <typename R>
INLINE void normalise(idx rows, idx n, R* x, const R* scale, const R* shift, R* deviation, R* out) {
    for (idx i = 0; i < rows; ++i) {
        R* __restrict a = x + i * n;
        R* __restrict o = out + i * n;
        R mean = 0, square = 0;
        _Pragma("omp simd reduction(+ : mean)") for (idx j = 0; j < n; ++j) mean += a[j];
        mean /= R(n);
        SIMD for (idx j = 0; j < n; ++j) a[j] -= mean;
        _Pragma("omp simd reduction(+ : square)") for (idx j = 0; j < n; ++j) square += a[j] * a[j];
        const R inverse = deviation[i] = R(1) / std::sqrt(square / R(n) + R(1e-5));
        SIMD for (idx j = 0; j < n; ++j) {
            a[j] *= inverse;
            o[j] = a[j] * scale[j] + shift[j];
        }
    }
}

// The gradient `d` of what came out becomes that of what went in.
template <typename R>
INLINE void normalise_backward(idx rows, idx n, const R* x, const R* scale, const R* deviation, R* d, R* __restrict d_scale,
                               R* __restrict d_shift) {
    for (idx i = 0; i < rows; ++i) {
        const R* __restrict a = x + i * n;
        R* __restrict g = d + i * n;
        R mean = 0, along = 0;
        SIMD for (idx j = 0; j < n; ++j) {
            d_scale[j] += g[j] * a[j];
            d_shift[j] += g[j];
            g[j] *= scale[j];
        }
        _Pragma("omp simd reduction(+ : mean, along)") for (idx j = 0; j < n; ++j) {
            mean += g[j];
            along += g[j] * a[j];
        }
        mean /= R(n);
        along /= R(n);
        const R inverse = deviation[i];
        SIMD for (idx j = 0; j < n; ++j) g[j] = inverse * (g[j] - mean - along * a[j]);
    }
}

// out [rows, n] = bias + x [rows, k] weight.
template <typename R>
INLINE void affine(idx rows, idx n, idx k, const R* x, const R* weight, const R* bias, R* out) {
    for (idx i = 0; i < rows; ++i) std::memcpy(out + i * n, bias, n * sizeof(R));
    row_product(rows, nullptr, n, k, x, k, weight, true, out, n);
}

// Adds the gradients of the weight [n, k] and the bias [n] of `affine`.
template <typename R> INLINE void affine_gradient(idx rows, idx n, idx k, const R* x, const R* d, R* d_weight, R* d_bias) {
    add_gradient(rows, nullptr, n, k, d, n, x, k, d_weight);
    for (idx i = 0; i < rows; ++i) {
        const R* __restrict row = d + i * n;
        R* __restrict sum = d_bias;
        SIMD for (idx j = 0; j < n; ++j) sum[j] += row[j];
    }
}

template <typename R> INLINE void rmc_forward(const RMCSequence<R>* s) {
    const idx T = s->T, B = s->B, S = s->N, F = s->D, E = s->E, H = s->H, dk = s->dk, dv = s->dv, W = H * (2 * dk + dv);
    const idx blocks = s->blocks, layers = s->layers, step = B * F, state = (T + 1) * step, rows = (S + E) * B;
    PackedMemory<R> packed = {s->packed, s->is_packed != 0};
    const R one = 1;
    const Panels<R> qkv_weight(blocks, F, W, s->qkv_weight, true, one, &packed),
        mlp_weight(layers, F, F, s->mlp_weight, true, one, &packed),
        gate_memory(1, F, 2 * F, s->gate_memory, true, one, &packed);
    units_first(S, B, F, s->h_first, s->h, state);
    for (idx t = 0; t < T; ++t) {
        const idx slot = s->keep ? t : 0;
        R *h = s->h + t * step, *gates = s->gates + slot * S * B * 2 * F, *tanh_memory = s->tanh_memory + slot * S * step;
        R *tanh_new = s->tanh_new + slot * S * step, *z = s->z + slot * (blocks + 1) * rows * F;
        if (s->starts) reset(S, B, F, s->starts + t * B, s->h_start, h, state);
        for (idx n = 0; n < S; ++n) std::memcpy(z + n * step, h + n * state, step * sizeof(R));
        for (idx b = 0; b < B; ++b)
            for (idx e = 0; e < E; ++e)
                std::memcpy(z + (S + e) * step + b * F, s->rows + ((t * B + b) * E + e) * F, F * sizeof(R));
        for (idx k = 0; k < blocks; ++k, z += rows * F) {
            const idx at = slot * blocks + k;
            R *hat = s->qkv_hat + at * rows * W, *qkv = s->qkv + at * rows * W, *first = s->first_hat + at * rows * F;
            R *z1 = s->between + at * rows * F, *second = s->second_hat + at * rows * F, *deviation = s->deviation + at * 3 * rows;
            affine(rows, W, F, (const R*)z, qkv_weight[k], s->qkv_bias + k * W, hat);
            normalise(rows, W, hat, s->qkv_scale + k * W, s->qkv_shift + k * W, deviation, qkv);
            communicate(S + E, B, H, dk, dv, S + E, idx(0), (const R*)qkv, s->attention + at * B * H * (S + E) * (S + E),
                        first);
            SIMD for (idx j = 0; j < rows * F; ++j) first[j] += z[j];
            normalise(rows, F, first, s->first_scale + k * F, s->first_shift + k * F, deviation + rows, z1);
            const R* seen = z1;
            for (idx l = 0; l < layers; ++l) {
                const bool last = l == layers - 1;
                R* out = last ? second : s->hidden + (at * (layers - 1) + l) * rows * F;
                affine(rows, F, F, seen, mlp_weight[l], s->mlp_bias + l * F, out);
                if (!last)
                    SIMD for (idx j = 0; j < rows * F; ++j) out[j] = out[j] < R(0) ? R(0) : out[j];
                seen = out;
            }
            SIMD for (idx j = 0; j < rows * F; ++j) second[j] += z1[j];
            normalise(rows, F, second, s->second_scale + k * F, s->second_shift + k * F, deviation + 2 * rows, z + rows * F);
        }
        for (idx n = 0; n < S; ++n)
            for (idx b = 0; b < B; ++b) {
                const R* __restrict memory = h + n * state + b * F;
                R* __restrict tanh_row = tanh_memory + n * step + b * F;
                SIMD for (idx j = 0; j < F; ++j) tanh_row[j] = hyperbolic(memory[j]);
                std::memcpy(gates + (n * B + b) * 2 * F, s->gate_input + (t * B + b) * 2 * F, 2 * F * sizeof(R));
            }
        row_product(S * B, nullptr, 2 * F, F, tanh_memory, F, gate_memory[0], true, gates, 2 * F);
        for (idx n = 0; n < S; ++n)
            for (idx b = 0; b < B; ++b) {
                R* __restrict g = gates + (n * B + b) * 2 * F;
                R* __restrict fresh = tanh_new + n * step + b * F;
                const R* __restrict candidate = z + n * step + b * F;
                const R* __restrict old = h + n * state + b * F;
                R* __restrict next = h + step + n * state + b * F;
                R* __restrict y = s->y + t * s->y_step + (b * S + n) * F;
                SIMD for (idx j = 0; j < 2 * F; ++j) g[j] = sigmoid(g[j]);
                SIMD for (idx j = 0; j < F; ++j) {
                    fresh[j] = hyperbolic(candidate[j]);
                    y[j] = next[j] = g[j] * fresh[j] + g[F + j] * old[j];
                }
            }
    }
    rows_first(S, B, F, (const R*)s->h + T * step, state, s->h_last);
}

template <typename R> INLINE void rmc_backward(const RMCSequence<R>* s) {
    const idx T = s->T, B = s->B, S = s->N, F = s->D, E = s->E, H = s->H, dk = s->dk, dv = s->dv, W = H * (2 * dk + dv);
    const idx blocks = s->blocks, layers = s->layers, step = B * F, state = (T + 1) * step, rows = (S + E) * B;
    const Panels<R> qkv_weight(blocks, W, F, s->qkv_weight, false), mlp_weight(layers, F, F, s->mlp_weight, false),
        gate_memory(1, 2 * F, F, s->gate_memory, false);
    R *dz = s->dz, *d1 = s->d_first, *d2 = s->d_second, *d_gates = s->d_gates, *d_qkv = s->d_qkv;
    units_first(S, B, F, s->dh_last, s->dh, step);
    for (idx t = T - 1; t >= 0; --t) {
        const R *h = s->h + t * step, *gates = s->gates + t * S * B * 2 * F, *tanh_memory = s->tanh_memory + t * S * step;
        const R *tanh_new = s->tanh_new + t * S * step, *z = s->z + (t + 1) * (blocks + 1) * rows * F - rows * F;
        for (idx n = 0; n < S; ++n)
            for (idx b = 0; b < B; ++b) {
                const R* __restrict g = gates + (n * B + b) * 2 * F;
                const R* __restrict fresh = tanh_new + n * step + b * F;
                const R* __restrict old = h + n * state + b * F;
                const R* __restrict dy = s->dy + t * s->y_step + (b * S + n) * F;
                R* __restrict d = s->dh + n * step + b * F;
                R* __restrict dg = d_gates + (n * B + b) * 2 * F;
                R* __restrict d_fresh = dz + n * step + b * F;
                SIMD for (idx j = 0; j < F; ++j) {
                    const R sum = d[j] + dy[j];
                    dg[j] = sum * fresh[j] * g[j] * (R(1) - g[j]);
                    dg[F + j] = sum * old[j] * g[F + j] * (R(1) - g[F + j]);
                    d_fresh[j] = sum * g[j] * (R(1) - fresh[j] * fresh[j]);
                    d[j] = sum * g[F + j];
                }
            }
        std::memset(dz + S * step, 0, E * step * sizeof(R));
        add_gradient(S * B, nullptr, 2 * F, F, d_gates, 2 * F, tanh_memory, F, s->d_gate_memory);
        row_product(S * B, nullptr, F, 2 * F, d_gates, 2 * F, gate_memory[0], false, d1, F);
        SIMD for (idx j = 0; j < S * step; ++j) s->dh[j] += d1[j] * (R(1) - tanh_memory[j] * tanh_memory[j]);
        for (idx b = 0; b < B; ++b) {
            R* __restrict sum = s->d_gate_input + (t * B + b) * 2 * F;
            SIMD for (idx j = 0; j < 2 * F; ++j) sum[j] = d_gates[b * 2 * F + j];
            for (idx n = 1; n < S; ++n)
                SIMD for (idx j = 0; j < 2 * F; ++j) sum[j] += d_gates[(n * B + b) * 2 * F + j];
        }
        for (idx k = blocks - 1; k >= 0; --k) {
            const idx at = t * blocks + k;
            const R *qkv = s->qkv + at * rows * W, *z1 = s->between + at * rows * F, *deviation = s->deviation + at * 3 * rows;
            z -= rows * F;
            normalise_backward(rows, F, (const R*)s->second_hat + at * rows * F, s->second_scale + k * F,
                               deviation + 2 * rows, dz, s->d_second_scale + k * F, s->d_second_shift + k * F);
            std::memcpy(d2, dz, rows * F * sizeof(R));  // what the perceptron gets; `dz` stays what goes around it
            for (idx l = layers - 1; l >= 0; --l) {
                const R* seen = l == 0 ? z1 : s->hidden + (at * (layers - 1) + l - 1) * rows * F;
                affine_gradient(rows, F, F, seen, (const R*)d2, s->d_mlp_weight + l * F * F, s->d_mlp_bias + l * F);
                row_product(rows, nullptr, F, F, d2, F, mlp_weight[l], false, d1, F);
                if (l > 0)
                    SIMD for (idx j = 0; j < rows * F; ++j) d2[j] = seen[j] <= R(0) ? R(0) : d1[j];
            }
            SIMD for (idx j = 0; j < rows * F; ++j) dz[j] += d1[j];
            normalise_backward(rows, F, (const R*)s->first_hat + at * rows * F, s->first_scale + k * F, deviation + rows, dz,
                               s->d_first_scale + k * F, s->d_first_shift + k * F);
            communicate_backward(S + E, B, H, dk, dv, qkv, (const R*)s->attention + at * B * H * (S + E) * (S + E),
                                 (const R*)dz, d_qkv, B * W, (const R*)nullptr);
            normalise_backward(rows, W, (const R*)s->qkv_hat + at * rows * W, s->qkv_scale + k * W, deviation, d_qkv,
                               s->d_qkv_scale + k * W, s->d_qkv_shift + k * W);
            affine_gradient(rows, W, F, z, (const R*)d_qkv, s->d_qkv_weight + k * W * F, s->d_qkv_bias + k * W);
            row_product(rows, nullptr, F, W, d_qkv, W, qkv_weight[k], true, dz, F);
        }
        SIMD for (idx j = 0; j < S * step; ++j) s->dh[j] += dz[j];
        for (idx b = 0; b < B; ++b)
            for (idx e = 0; e < E; ++e)
                std::memcpy(s->d_rows + ((t * B + b) * E + e) * F, dz + (S + e) * step + b * F, F * sizeof(R));
        if (s->starts) reset_backward(S, B, F, s->starts + t * B, s->dh_start, s->dh);
    }
    rows_first(S, B, F, (const R*)s->dh, step, s->dh_first);
}
