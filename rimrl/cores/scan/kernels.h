// Fused element-wise parts of a step, forward and backward. Tensors of one step are [N, B, width]: the rows of a unit
// are contiguous, and a stride is the distance between units, for views into [N, T, B, width].
#include "products.h"

// A polynomial that the compiler can vectorise; |relative error| < 2e-7, as the C library's within float's precision.
INLINE float exponential(float x) {
    x = x > 88.0f ? 88.0f : (x < -87.0f ? -87.0f : x);
    const float shifted = x * 1.44269504f + 12582912.0f;  // rounds to the nearest integer in the low bits
    const float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}
INLINE double exponential(double x) { return std::exp(x); }

template <typename R> INLINE R sigmoid(R x) { return R(1) / (R(1) + exponential(-x)); }
template <typename R> INLINE R hyperbolic(R x) {
    const R e = exponential(R(-2) * (x < R(0) ? -x : x));
    const R magnitude = (R(1) - e) / (R(1) + e);
    return x < R(0) ? -magnitude : magnitude;
}

template <typename R> INLINE R dot(const R* a, const R* b, idx n) {
    using V = typename Narrow<R>::Vector;
    const idx L = Narrow<R>::size;
    V sum = {};
    idx k = 0;
    for (; k + L <= n; k += L) sum += load<V>(a + k) * load<V>(b + k);
    if (k < n) sum += load<V>(a + k, n - k) * load<V>(b + k, n - k);
    R sums[4];
    four_sums(sum, V{}, V{}, V{}, sums);
    return sums[0];
}

// out = sum over m of weight_m row_m, for rows of n entries.
template <typename R>
INLINE void weighted_sum(idx rows, idx n, const R* weight, idx weight_stride, const R* row, idx row_stride,
                         R* __restrict out) {
    const R first = weight[0];
    SIMD for (idx j = 0; j < n; ++j) out[j] = first * row[j];
    for (idx m = 1; m < rows; ++m) {
        const R w = weight[m * weight_stride];
        const R* __restrict x = row + m * row_stride;
        SIMD for (idx j = 0; j < n; ++j) out[j] += w * x[j];
    }
}

// How many of n scores come before the one at i: the larger, and of equal ones those of lower index.
template <typename R> INLINE idx rank(const R* scores, idx stride, idx n, idx i) {
    const R own = scores[i * stride];
    idx before = 0;
    for (idx m = 0; m < n; ++m) {
        const R other = scores[m * stride];
        before += other > own || (other == own && m < i);
    }
    return before;
}

// Softmax over those of n scores that are kept, in place; `kept` of them, or all but `skipped` (-1: none) if fewer.
template <typename R> INLINE void softmax_of_largest(R* p, idx n, idx kept, idx skipped) {
    R chosen[MAX_UNITS];
    if (skipped >= 0) p[skipped] = -std::numeric_limits<R>::max();
    R largest = p[0];
    for (idx m = 1; m < n; ++m) largest = p[m] > largest ? p[m] : largest;
    for (idx m = 0; m < n; ++m) chosen[m] = m != skipped && (kept >= n || rank(p, 1, n, m) < kept) ? R(1) : R(0);
    R total = 0;
    for (idx m = 0; m < n; ++m) total += p[m] = chosen[m] * exponential(p[m] - largest);
    for (idx m = 0; m < n; ++m) p[m] /= total;
}

// The units with the K largest of `priority [N, B]`.
template <typename R> INLINE void choose(idx N, idx B, idx K, const R* priority, R* mask) {
    for (idx n = 0; n < N; ++n) {
        const R* __restrict own = priority + n * B;
        R* __restrict before = mask + n * B;  // as in `rank`, for all rows at once
        SIMD for (idx b = 0; b < B; ++b) before[b] = 0;
        for (idx m = 0; m < N; ++m) {
            const R* __restrict other = priority + m * B;
            if (m < n)
                SIMD for (idx b = 0; b < B; ++b) before[b] += other[b] >= own[b] ? R(1) : R(0);
            else
                SIMD for (idx b = 0; b < B; ++b) before[b] += other[b] > own[b] ? R(1) : R(0);
        }
        SIMD for (idx b = 0; b < B; ++b) before[b] = before[b] < R(K) ? R(1) : R(0);
    }
}

// Softmax over the units, of scores [N, B].
template <typename R> INLINE void softmax_over_units(idx N, idx B, R* p) {
    for (idx b = 0; b < B; ++b) {
        R largest = p[b];
        for (idx n = 1; n < N; ++n) largest = p[n * B + b] > largest ? p[n * B + b] : largest;
        for (idx n = 0; n < N; ++n) p[n * B + b] -= largest;
    }
    SIMD for (idx j = 0; j < N * B; ++j) p[j] = exponential(p[j]);
    for (idx b = 0; b < B; ++b) {
        R total = 0;
        for (idx n = 0; n < N; ++n) total += p[n * B + b];
        for (idx n = 0; n < N; ++n) p[n * B + b] /= total;
    }
}

// What share of the input each unit gets, [N, B], and which units win it: the share is taken from null, or if they share
// it out from each other. `scratch` is [N, B].
template <typename R>
INLINE void compete(idx N, idx B, idx D, idx K, idx over_units, const R* h, idx h_stride, const R* keys, idx keys_stride,
                    R* scratch, R* share, R* mask) {
    for (idx n = 0; n < N; ++n)
        row_dots(B, D, h + n * h_stride, D, keys + n * keys_stride, D, R(1), share + n * B);
    if (over_units) {
        softmax_over_units(N, B, share);
        choose(N, B, K, (const R*)share, mask);
        return;
    }
    // Shares close to 1 are rounded to it, and what is left for null still tells which is larger.
    SIMD for (idx j = 0; j < N * B; ++j) {
        scratch[j] = -sigmoid(-share[j]);
        share[j] = sigmoid(share[j]);
    }
    choose(N, B, K, (const R*)scratch, mask);
}

// What the input adds to the gates of every unit. A scale, of dropout, may be null.
template <typename R>
INLINE void read_shares(idx N, idx B, idx G, const R* share, const R* scale, const R* values, idx values_stride,
                        const R* bias, R* gates) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const R s = share[n * B + b] * (scale ? scale[n * B + b] : R(1));
            const R* __restrict v = values + n * values_stride + b * G;
            const R* __restrict w = bias + n * G;
            R* __restrict g = gates + (n * B + b) * G;
            SIMD for (idx j = 0; j < G; ++j) g[j] = w[j] + s * v[j];
        }
}

template <typename R>
INLINE void lstm(idx N, idx B, idx D, R* gates, const R* c, idx c_stride, const R* mask, R* tanh_c, R* h_new,
                 idx h_new_stride, R* c_out, idx c_out_stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            R* __restrict a = gates + row * 4 * D;
            const R* __restrict c0 = c + n * c_stride + b * D;
            R* __restrict tc = tanh_c + row * D;
            R* __restrict hn = h_new + n * h_new_stride + b * D;
            R* __restrict c1 = c_out + n * c_out_stride + b * D;
            const bool active = mask[row] != R(0);
            SIMD for (idx j = 0; j < 2 * D; ++j) a[j] = sigmoid(a[j]);
            SIMD for (idx j = 2 * D; j < 3 * D; ++j) a[j] = hyperbolic(a[j]);
            SIMD for (idx j = 3 * D; j < 4 * D; ++j) a[j] = sigmoid(a[j]);
            SIMD for (idx j = 0; j < D; ++j) {
                const R c_new = a[D + j] * c0[j] + a[j] * a[2 * D + j];
                tc[j] = hyperbolic(c_new);
                hn[j] = a[3 * D + j] * tc[j];
                c1[j] = active ? c_new : c0[j];
            }
        }
}

// The candidates of a GRU. `gates`, [N, B, 3 D], hold what the input adds and become the gates; `hidden` what the state adds.
template <typename R>
INLINE void gru(idx N, idx B, idx D, R* gates, const R* hidden, const R* h, idx h_stride, R* hidden_new, R* h_new,
                idx h_new_stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            R* __restrict a = gates + row * 3 * D;
            const R* __restrict s = hidden + row * 3 * D;
            const R* __restrict h0 = h + n * h_stride + b * D;
            R* __restrict kept = hidden_new + row * D;
            R* __restrict hn = h_new + n * h_new_stride + b * D;
            SIMD for (idx j = 0; j < 2 * D; ++j) a[j] = sigmoid(a[j] + s[j]);
            SIMD for (idx j = 0; j < D; ++j) {
                kept[j] = s[2 * D + j];
                a[2 * D + j] = hyperbolic(a[2 * D + j] + a[j] * s[2 * D + j]);
                hn[j] = a[2 * D + j] + a[D + j] * (h0[j] - a[2 * D + j]);
            }
        }
}

// Gradients of both of its inputs; `dh` gets what goes through the update gate added.
template <typename R>
INLINE void gru_backward(idx N, idx B, idx D, const R* dh_new, const R* d_read, const R* mask, const R* activations,
                         const R* hidden_new, const R* h, idx h_stride, R* dh, R* d_gates, R* d_hidden, idx stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            const R* __restrict a = activations + row * 3 * D;
            const R* __restrict kept = hidden_new + row * D;
            const R* __restrict h0 = h + n * h_stride + b * D;
            const R* __restrict dn = dh_new + row * D;
            const R* __restrict dr = d_read + row * D;
            R* __restrict d = dh + row * D;
            R* __restrict dg = d_gates + n * stride + b * 3 * D;
            R* __restrict ds = d_hidden + n * stride + b * 3 * D;
            if (mask[row] == R(0)) {
                std::memset(dg, 0, 3 * D * sizeof(R));
                std::memset(ds, 0, 3 * D * sizeof(R));
                continue;
            }
            SIMD for (idx j = 0; j < D; ++j) {
                const R r = a[j], z = a[D + j], g = a[2 * D + j], total = dn[j] + dr[j];
                const R d_new = total * (R(1) - z) * (R(1) - g * g);
                ds[j] = dg[j] = d_new * kept[j] * r * (R(1) - r);
                ds[D + j] = dg[D + j] = total * (h0[j] - g) * z * (R(1) - z);
                dg[2 * D + j] = d_new;
                ds[2 * D + j] = d_new * r;
                d[j] += total * z;
            }
        }
}

// What units read of each other, given how they attend.
template <typename R>
INLINE void read_others(idx N, idx B, idx H, idx dk, idx dv, const R* qkv, const R* attention, R* read) {
    const idx W = H * (2 * dk + dv);
    for (idx b = 0; b < B; ++b)
        for (idx i = 0; i < H; ++i)
            mix_rows(N, N, dv, attention + (b * H + i) * N * N, N, idx(1), qkv + b * W + 2 * H * dk + i * dv, B * W,
                     read + b * H * dv + i * dv, B * H * dv);
}

template <typename R>
INLINE void attend(idx N, idx B, idx H, idx dk, idx dv, idx kept, idx others_only, const R* qkv, R* attention,
                   R* read) {
    const idx W = H * (2 * dk + dv), unit = B * W;
    const R scale = R(1) / std::sqrt(R(dk));
    const bool plain = kept >= N && !others_only;
    for (idx b = 0; b < B; ++b)
        for (idx i = 0; i < H; ++i) {
            R* __restrict p = attention + (b * H + i) * N * N;
            const R* q = qkv + b * W + i * dk;
            for (idx n = 0; n < N; ++n) {
                row_dots(N, dk, q + n * unit, idx(0), q + H * dk, unit, scale, p + n * N);
                if (!plain) {
                    softmax_of_largest(p + n * N, N, kept, others_only ? n : -1);
                    continue;
                }
                R largest = p[n * N];
                for (idx m = 1; m < N; ++m) largest = p[n * N + m] > largest ? p[n * N + m] : largest;
                for (idx m = 0; m < N; ++m) p[n * N + m] -= largest;
            }
        }
    if (plain) {
        SIMD for (idx j = 0; j < B * H * N * N; ++j) attention[j] = exponential(attention[j]);
        for (idx row = 0; row < B * H * N; ++row) {
            R* __restrict p = attention + row * N;
            R total = 0;
            for (idx m = 0; m < N; ++m) total += p[m];
            for (idx m = 0; m < N; ++m) p[m] /= total;
        }
    }
    read_others(N, B, H, dk, dv, qkv, (const R*)attention, read);
}

// RigLSTM's input feature selection: scores of V views, softmax over the `kept` largest, and what is read of them,
// which is [B, N, F].
template <typename R>
INLINE void select_views(idx N, idx B, idx V, idx dk, idx F, idx kept, const R* queries, const R* keys, const R* views,
                         R* attention, R* mean_score, R* read) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            R* p = attention + (b * N + n) * V;
            R total = 0;
            for (idx j = 0; j < V; ++j) {
                p[j] = dot(queries + (n * B + b) * dk, keys + (b * V + j) * dk, dk);
                total += p[j];
            }
            mean_score[n * B + b] = total / R(V);
            softmax_of_largest(p, V, kept, idx(-1));
            weighted_sum(V, F, p, 1, views + b * V * F, F, read + (b * N + n) * F);
        }
}

template <typename R>
INLINE void select_views_backward(idx N, idx B, idx V, idx dk, idx F, const R* queries, const R* keys, const R* views,
                                  const R* attention, const R* d_read, R* d_queries, idx d_queries_stride, R* d_keys,
                                  R* d_views) {
    R d_scores[MAX_UNITS * MAX_UNITS];
    for (idx b = 0; b < B; ++b) {
        const R* p = attention + b * N * V;
        for (idx n = 0; n < N; ++n) {
            R mean = 0;
            for (idx j = 0; j < V; ++j) {
                const R d = p[n * V + j] == R(0) ? R(0) : dot(d_read + (n * B + b) * F, views + (b * V + j) * F, F);
                d_scores[n * V + j] = d;
                mean += p[n * V + j] * d;
            }
            for (idx j = 0; j < V; ++j) d_scores[n * V + j] = p[n * V + j] * (d_scores[n * V + j] - mean);
            weighted_sum(V, dk, d_scores + n * V, 1, keys + b * V * dk, dk, d_queries + n * d_queries_stride + b * dk);
        }
        for (idx j = 0; j < V; ++j) {
            weighted_sum(N, dk, d_scores + j, V, queries + b * dk, B * dk, d_keys + (b * V + j) * dk);
            weighted_sum(N, F, p + j, V, d_read + b * F, B * F, d_views + (b * V + j) * F);
        }
    }
}

// What communication reads of units: their candidates, or of inactive ones their past.
template <typename R>
INLINE void read_previous(idx N, idx B, idx D, const R* h_new, const R* h, idx h_stride, const R* mask, R* h_read, idx stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const R* from = mask[n * B + b] == R(0) ? h + n * h_stride + b * D : h_new + n * stride + b * D;
            std::memcpy(h_read + n * stride + b * D, from, D * sizeof(R));
        }
}
template <typename R> INLINE void read_previous_backward(idx N, idx B, idx D, const R* d_read, const R* mask, R* dh) {
    for (idx row = 0; row < N * B; ++row) {
        if (mask[row] != R(0)) continue;
        const R* __restrict d = d_read + row * D;
        R* __restrict sum = dh + row * D;
        SIMD for (idx j = 0; j < D; ++j) sum[j] += d[j];
    }
}

// Communication and the choice between new and old state. `output`, of width P, is what is made of the messages: a value
// and its gate if P is 2 D, a value alone if it is D, and nothing if it is 0. It becomes its own activation. Dropout
// scales values; the scale may be null.
template <typename R>
INLINE void update(idx N, idx B, idx D, idx P, R* output, const R* scale, const R* h_new, idx h_new_stride, const R* h,
                   idx h_stride, const R* mask, R* h_out, idx h_out_stride, R* y) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            R* __restrict r = output + row * P;
            const R* __restrict hn = h_new + n * h_new_stride + b * D;
            const R* __restrict h0 = h + n * h_stride + b * D;
            R* __restrict h1 = h_out + n * h_out_stride + b * D;
            R* __restrict out = y + (b * N + n) * D;
            if (mask[row] == R(0) || P == 0) {
                const R* from = mask[row] == R(0) ? h0 : hn;
                std::memcpy(h1, from, D * sizeof(R));
                std::memcpy(out, from, D * sizeof(R));
                continue;
            }
            if (scale) {
                const R* __restrict w = scale + row * D;
                SIMD for (idx j = 0; j < D; ++j) r[j] *= w[j];
            }
            if (P == D) {
                SIMD for (idx j = 0; j < D; ++j) out[j] = h1[j] = hn[j] + r[j];
                continue;
            }
            SIMD for (idx j = 0; j < D; ++j) {
                r[j] = hyperbolic(r[j]);
                r[D + j] = sigmoid(r[D + j]);
                out[j] = h1[j] = hn[j] + r[j] * r[D + j];
            }
        }
}

// The gradient of `update`: `dh` becomes what goes around the step, `dh_new` what goes through it.
template <typename R>
INLINE void update_backward(idx N, idx B, idx D, idx P, const R* dy, R* dh, const R* mask, const R* output, const R* scale,
                            R* dh_new, R* d_output) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            const R* __restrict out = dy + (b * N + n) * D;
            const R* __restrict r = output + row * P;
            R* __restrict d = dh + row * D;
            R* __restrict dn = dh_new + row * D;
            R* __restrict dr = d_output + row * P;
            if (mask[row] == R(0)) {
                SIMD for (idx j = 0; j < D; ++j) d[j] += out[j];
                std::memset(dn, 0, D * sizeof(R));
                std::memset(dr, 0, P * sizeof(R));
                continue;
            }
            SIMD for (idx j = 0; j < D; ++j) {
                dn[j] = d[j] + out[j];
                d[j] = 0;
            }
            if (P == D) std::memcpy(dr, dn, D * sizeof(R));
            if (P == 2 * D) {
                SIMD for (idx j = 0; j < D; ++j) {
                    dr[j] = dn[j] * r[D + j] * (R(1) - r[j] * r[j]);
                    dr[D + j] = dn[j] * r[j] * r[D + j] * (R(1) - r[D + j]);
                }
            }
            if (scale && P) {
                const R* __restrict w = scale + row * D;
                SIMD for (idx j = 0; j < D; ++j) dr[j] *= w[j];
            }
        }
}

// With a mask, [N, B], units outside of it read nothing.
template <typename R>
INLINE void attend_backward(idx N, idx B, idx H, idx dk, idx dv, const R* qkv, const R* attention, const R* d_read,
                            R* d_qkv, idx d_qkv_stride, const R* mask = nullptr) {
    const idx W = H * (2 * dk + dv), unit = B * W;
    const R scale = R(1) / std::sqrt(R(dk));
    R d_scores[MAX_UNITS * MAX_UNITS];
    for (idx b = 0; b < B; ++b)
        for (idx i = 0; i < H; ++i) {
            const R* p = attention + (b * H + i) * N * N;
            const R *q = qkv + b * W + i * dk, *k = q + H * dk, *v = qkv + b * W + 2 * H * dk + i * dv;
            R *dq = d_qkv + b * W + i * dk, *d_k = dq + H * dk, *d_v = d_qkv + b * W + 2 * H * dk + i * dv;
            const R* d_o = d_read + b * H * dv + i * dv;
            const idx o_unit = B * H * dv;
            for (idx n = 0; n < N; ++n) {
                R* __restrict d = d_scores + n * N;
                if (mask && mask[n * B + b] == R(0)) {
                    for (idx m = 0; m < N; ++m) d[m] = 0;
                    continue;
                }
                row_dots(N, dv, d_o + n * o_unit, idx(0), v, unit, R(1), d);
                R mean = 0;
                for (idx m = 0; m < N; ++m) mean += p[n * N + m] * d[m];
                for (idx m = 0; m < N; ++m) d[m] = scale * p[n * N + m] * (d[m] - mean);
            }
            mix_rows(N, N, dk, (const R*)d_scores, N, idx(1), k, unit, dq, d_qkv_stride);
            mix_rows(N, N, dk, (const R*)d_scores, idx(1), N, q, unit, d_k, d_qkv_stride);
            mix_rows(N, N, dv, p, idx(1), N, d_o, o_unit, d_v, d_qkv_stride);
        }
}

// `dc` goes in as the gradient after the step and comes out as the gradient before it.
template <typename R>
INLINE void lstm_backward(idx N, idx B, idx D, const R* dh_new, const R* d_read, const R* mask, const R* activations,
                          const R* tanh_c, const R* c, idx c_stride, R* dc, R* d_gates, idx d_gates_stride) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            const R* __restrict a = activations + row * 4 * D;
            const R* __restrict tc = tanh_c + row * D;
            const R* __restrict c0 = c + n * c_stride + b * D;
            const R* __restrict dn = dh_new + row * D;
            const R* __restrict dr = d_read + row * D;
            R* __restrict d = dc + row * D;
            R* __restrict dg = d_gates + n * d_gates_stride + b * 4 * D;
            if (mask[row] == R(0)) {
                std::memset(dg, 0, 4 * D * sizeof(R));
                continue;
            }
            SIMD for (idx j = 0; j < D; ++j) {
                const R i = a[j], f = a[D + j], g = a[2 * D + j], o = a[3 * D + j];
                const R dh = dn[j] + dr[j];
                const R d_c = d[j] + dh * o * (R(1) - tc[j] * tc[j]);
                dg[j] = d_c * g * i * (R(1) - i);
                dg[D + j] = d_c * c0[j] * f * (R(1) - f);
                dg[2 * D + j] = d_c * i * (R(1) - g * g);
                dg[3 * D + j] = dh * tc[j] * o * (R(1) - o);
                d[j] = d_c * f;
            }
        }
}

// Of one unit's `read_shares`: `d_read` is the gradient of what it reads, its share of the values.
template <typename R>
INLINE void read_share_backward(idx B, idx U, const R* d_read, const R* values, const R* share, const R* scale,
                                const R* mask, R* d_values, R* d_share) {
    row_dots(B, U, d_read, U, values, U, R(1), d_share);
    for (idx b = 0; b < B; ++b) {
        const R left = mask[b] == R(0) ? R(0) : (scale ? scale[b] : R(1)), s = share[b] * left;
        if (left == R(0)) {
            d_share[b] = 0;
            continue;
        }
        d_share[b] *= left;
        const R* __restrict du = d_read + b * U;
        R* __restrict dv = d_values + b * U;
        SIMD for (idx j = 0; j < U; ++j) dv[j] += s * du[j];
    }
}

// From the gradients of shares, [N, B], to those of scores.
template <typename R> INLINE void scores_backward(idx N, idx B, idx over_units, const R* share, R* d) {
    if (!over_units) {
        SIMD for (idx j = 0; j < N * B; ++j) d[j] *= share[j] * (R(1) - share[j]);
        return;
    }
    for (idx b = 0; b < B; ++b) {
        R mean = 0;
        for (idx n = 0; n < N; ++n) mean += share[n * B + b] * d[n * B + b];
        for (idx n = 0; n < N; ++n) d[n * B + b] = share[n * B + b] * (d[n * B + b] - mean);
    }
}

// Adds to one unit's `dh` what comes through its scores.
template <typename R> INLINE void keys_backward(idx B, idx D, const R* d_scores, const R* keys, R* dh) {
    for (idx b = 0; b < B; ++b) {
        const R ds = d_scores[b];
        if (ds == R(0)) continue;
        const R* __restrict k = keys + b * D;
        R* __restrict d = dh + b * D;
        SIMD for (idx j = 0; j < D; ++j) d[j] += ds * k[j];
    }
}

// BRIMs' input attention, of every unit to null and M elements. For each row, an element is its keys of all heads, H dk,
// and then its values, H dv; elements of a row lie side by side. The less a unit attends to null, the higher its priority;
// if units share out the elements, null gets nothing, and priority is what a unit gets of all of them.
template <typename R>
INLINE void attend_to_elements(idx N, idx B, idx H, idx dk, idx dv, idx M, idx over_units, const R* queries,
                               const R* elements, R* weights, R* priority) {
    const idx E = 1 + M, unit = B * H * E, width = H * (dk + dv);
    const R scale = R(1) / std::sqrt(R(dk));
    for (idx row = 0; row < N * B; ++row) {
        const R *q = queries + row * H * dk, *k = elements + row % B * M * width;
        R* own = weights + row * H * E;
        for (idx i = 0; M >= H && i < H; ++i) row_dots(M, dk, q + i * dk, idx(0), k + i * dk, width, scale, own + i * E + 1);
        for (idx m = 0; M < H && m < M; ++m) {
            R scores[MAX_UNITS];
            row_dots(H, dk, q, dk, k + m * width, dk, scale, scores);
            for (idx i = 0; i < H; ++i) own[i * E + 1 + m] = scores[i];
        }
        for (idx i = 0; i < H; ++i) {
            R* __restrict p = own + i * E;
            R largest = p[0] = 0;
            if (over_units) continue;
            for (idx m = 0; m < M; ++m) largest = p[1 + m] > largest ? p[1 + m] : largest;
            for (idx m = 0; m < E; ++m) p[m] -= largest;
        }
    }
    if (over_units) {
        softmax_over_units(N, unit, weights);
        for (idx j = 0; j < N * unit; j += E) weights[j] = 0;
    } else {
        SIMD for (idx j = 0; j < N * unit; ++j) weights[j] = exponential(weights[j]);
    }
    for (idx row = 0; row < N * B; ++row) {
        R null = 0, all = 0;
        for (idx i = 0; i < H; ++i) {
            R* p = weights + (row * H + i) * E;
            R total = 0;
            for (idx m = 0; m < E; ++m) total += p[m];
            for (idx m = 0; !over_units && m < E; ++m) p[m] /= total;
            null += p[0];
            all += total;
        }
        priority[row] = over_units ? all / R(H) : -null / R(H);
    }
}

// What of the attention [N, M] of one row and head reads values: with dropout, which may be null, and of active units.
template <typename R>
INLINE void used_attention(idx N, idx B, idx H, idx M, const R* weights, const R* scale, const R* mask, R* used) {
    for (idx n = 0; n < N; ++n) {
        const R *p = weights + n * B * H * (1 + M), *left = scale ? scale + n * B * H * M : nullptr;
        const R active = mask ? mask[n * B] : R(1);
        for (idx m = 0; m < M; ++m) used[n * M + m] = active * p[m] * (left ? left[m] : R(1));
    }
}

// What units read of the elements, given how they attend to them; `scratch` is [N, M].
template <typename R>
INLINE void read_elements(idx N, idx B, idx H, idx dk, idx dv, idx M, const R* elements, const R* weights, const R* scale,
                          R* read, idx read_stride, R* scratch) {
    const idx E = 1 + M, width = H * (dk + dv);
    for (idx b = 0; b < B; ++b)
        for (idx i = 0; i < H; ++i) {
            const R *p = weights + (b * H + i) * E + 1, *v = elements + b * M * width + H * dk + i * dv;
            if (scale) used_attention(N, B, H, M, p, scale + (b * H + i) * M, (const R*)nullptr, scratch);
            mix_rows(N, M, dv, scale ? (const R*)scratch : p, scale ? M : B * H * E, idx(1), v, width,
                     read + (b * H + i) * dv, read_stride);
        }
}

// Of both; `scratch` is twice [N, M].
template <typename R>
INLINE void read_elements_backward(idx N, idx B, idx H, idx dk, idx dv, idx M, idx over_units, const R* queries,
                                   const R* elements, const R* weights, const R* scale, const R* mask, const R* d_read,
                                   R* d_queries, idx d_queries_stride, R* d_elements, R* scratch) {
    const idx E = 1 + M, width = H * (dk + dv);
    const R root = R(1) / std::sqrt(R(dk));
    R *d = scratch, *used = scratch + N * M;
    for (idx b = 0; b < B; ++b)
        for (idx i = 0; i < H; ++i) {
            const idx row = b * H + i;
            const R *p = weights + row * E + 1, *left = scale ? scale + row * M : nullptr;
            const R *k = elements + b * M * width + i * dk, *v = elements + b * M * width + H * dk + i * dv;
            R *d_k = d_elements + b * M * width + i * dk, *d_v = d_elements + b * M * width + H * dk + i * dv;
            used_attention(N, B, H, M, p, left, mask + b, used);
            for (idx n = 0; n < N; ++n) {
                const R* own = p + n * B * H * E;
                if (mask[n * B + b] == R(0)) {
                    std::memset(d + n * M, 0, M * sizeof(R));
                    continue;
                }
                row_dots(M, dv, d_read + (n * B * H + row) * dv, idx(0), v, width, R(1), d + n * M);
                for (idx m = 0; left && m < M; ++m) d[n * M + m] *= left[n * B * H * M + m];
                if (over_units) continue;
                R mean = 0;
                for (idx m = 0; m < M; ++m) mean += own[m] * d[n * M + m];
                for (idx m = 0; m < M; ++m) d[n * M + m] = root * own[m] * (d[n * M + m] - mean);
            }
            for (idx m = 0; over_units && m < M; ++m) {
                R mean = 0;
                for (idx n = 0; n < N; ++n) mean += p[n * B * H * E + m] * d[n * M + m];
                for (idx n = 0; n < N; ++n) d[n * M + m] = root * p[n * B * H * E + m] * (d[n * M + m] - mean);
            }
            mix_rows(M, N, dv, (const R*)used, idx(1), M, d_read + row * dv, B * H * dv, d_v, width);
            mix_rows(N, M, dk, (const R*)d, M, idx(1), k, width, d_queries + row * dk, d_queries_stride);
            mix_rows(M, N, dk, (const R*)d, idx(1), M, queries + row * dk, B * H * dk, d_k, width);
        }
}

// RigLSTM's soft state updating: the means that its query sees, new beside old, [B, 2 D].
template <typename R> INLINE void soft_means(idx N, idx B, idx D, const R* h_new, const R* h, idx h_stride, R* means) {
    const R part = R(1) / R(N);
    for (idx b = 0; b < B; ++b) {
        R* __restrict m = means + b * 2 * D;
        SIMD for (idx j = 0; j < 2 * D; ++j) m[j] = 0;
        for (idx n = 0; n < N; ++n) {
            const R* __restrict hn = h_new + (n * B + b) * D;
            const R* __restrict h0 = h + n * h_stride + b * D;
            SIMD for (idx j = 0; j < D; ++j) {
                m[j] += part * hn[j];
                m[D + j] += part * h0[j];
            }
        }
    }
}

// How far each unit goes from its old to its new hidden vector, and there it goes.
template <typename R>
INLINE void soft_update(idx N, idx B, idx D, const R* h_new, const R* h, idx h_stride, const R* direction, const R* mask,
                        R* share, R* h_out, idx h_out_stride, R* y) {
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            const R* __restrict hn = h_new + row * D;
            const R* __restrict h0 = h + n * h_stride + b * D;
            const R* __restrict w = direction + b * D;
            R* __restrict h1 = h_out + n * h_out_stride + b * D;
            R* __restrict out = y + (b * N + n) * D;
            R score = 0;
            _Pragma("omp simd reduction(+ : score)") for (idx j = 0; j < D; ++j) score += (hn[j] - h0[j]) * w[j];
            const R s = share[row] = sigmoid(score);
            const bool active = mask[row] != R(0);
            SIMD for (idx j = 0; j < D; ++j) out[j] = h1[j] = active ? s * hn[j] + (R(1) - s) * h0[j] : h0[j];
        }
}

// `dh` becomes what reaches the old hidden vector, `dh_new` what reaches the new one; without what goes through means.
template <typename R>
INLINE void soft_update_backward(idx N, idx B, idx D, const R* dy, const R* h_new, const R* h, idx h_stride,
                                 const R* direction, const R* mask, const R* share, R* dh, R* dh_new, R* d_direction) {
    std::memset(d_direction, 0, B * D * sizeof(R));
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const idx row = n * B + b;
            const R* __restrict hn = h_new + row * D;
            const R* __restrict h0 = h + n * h_stride + b * D;
            const R* __restrict w = direction + b * D;
            const R* __restrict out = dy + (b * N + n) * D;
            R* __restrict d = dh + row * D;
            R* __restrict dn = dh_new + row * D;
            R* __restrict dw = d_direction + b * D;
            const R s = share[row], weight = s * mask[row];
            R along = 0;
            SIMD for (idx j = 0; j < D; ++j) d[j] += out[j];
            _Pragma("omp simd reduction(+ : along)") for (idx j = 0; j < D; ++j) along += d[j] * (hn[j] - h0[j]);
            const R d_score = weight * (R(1) - s) * along;
            SIMD for (idx j = 0; j < D; ++j) {
                dn[j] = weight * d[j] + d_score * w[j];
                d[j] -= dn[j];
                dw[j] += d_score * (hn[j] - h0[j]);
            }
        }
}

// What goes through the means, [B, 2 D], is added.
template <typename R> INLINE void soft_means_backward(idx N, idx B, idx D, const R* d_means, R* dh_new, R* dh) {
    const R part = R(1) / R(N);
    for (idx n = 0; n < N; ++n)
        for (idx b = 0; b < B; ++b) {
            const R* __restrict m = d_means + b * 2 * D;
            R* __restrict dn = dh_new + (n * B + b) * D;
            R* __restrict d = dh + (n * B + b) * D;
            SIMD for (idx j = 0; j < D; ++j) {
                dn[j] += part * m[j];
                d[j] += part * m[D + j];
            }
        }
}
