// Written by rimrl/cores/scan/layout.py, which describes what is here; change that, and run it.
#pragma once
#include <cstdint>

typedef int64_t idx;
static const idx MAX_UNITS = 64;

template <typename R>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const R*, const R*,
                      const int*, const R*, const int*, const R*, R*, const int*);

#define LAYOUT "c59fc611df2f7819"

template <typename R> struct RIMSequence {
    idx T, B, N, D;  // time steps, rows, units, width of a unit
    idx G;  // width of a unit's gates: 4 D for an LSTM, 3 D for a GRU
    idx K, keep;  // active units; 0: all steps share one slot of what only the backward pass reads
    idx chunk;  // steps that enter a product together, where a step does not need it right away
    idx over_units;  // whether units share the input out, instead of taking their share from null
    idx H, dk, dv;  // communication: heads, width of a key and of a value; no heads: none
    idx P;  // width of what is made of messages: 2 D with a gate, D without, 0 without communication
    idx num_read;  // how many units each head of a unit reads
    idx keeps_messages;  // whether `qkv` and `received` are kept for the backward pass, or made anew there
    idx is_joined;  // whether values are projected before units read them: dv' is P then, else dv
    idx is_packed;  // whether `packed` holds the weights
    R *packed;  // weights as the forward pass multiplies by them, for the next call; null: not kept
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start, *c_start;  // [N, D]: at the start of an episode
    const R *h_first, *c_first;  // [B, N D]: before the first step
    R *h_last, *c_last;  // [B, N D]: after the last step
    R *y;  // [B, N D] of each step, which are `y_step` apart
    idx y_step;  // from step to step of y, and of dy
    const R *weight_hidden, *bias, *bias_hidden;  // [N, D, G], twice [N, G]; the last of a GRU, else null
    const R *query_key_value, *project, *project_bias;  // [N, D, H (2 dk + dv)], [P, H dv], [P]
    const R *message_scale;  // dropout of messages, [T, N, B, D], or null
    R *h, *c;  // before and after each step: [N, T + 1, B, D]
    R *gates, *mask;  // [T, N, B, G], [T, N, B]
    R *tanh_c, *hidden;  // [T, N, B, D], of a GRU what the state adds to the new gate; its scratch: [N, B, G]
    R *h_new, *h_read;  // [N, T, B, D]: candidates, and what communication reads; the same if it reads these
    R *attention, *output;  // [T, B, H, N, N], [T, N B, P]
    R *qkv, *received;  // [T, N, B, H (2 dk + dv')], [T, N B, H dv'], or scratch without T
    const R *dy;  // as y; this and all below are for the backward pass
    const R *dh_last, *dc_last;  // [B, N D]
    R *dh_first, *dc_first;  // [B, N D]
    R *dh_start, *dc_start;  // [N, D], added to
    R *dh, *dc;  // scratch: [N, B, D]
    R *d_weight_hidden, *d_bias, *d_bias_hidden;  // of the weights, which are added to
    R *d_query_key_value, *d_project, *d_project_bias;  // the same
    R *d_gates, *d_hidden, *d_qkv;  // scratch: twice [N, chunk, B, G], the second of a GRU; [N, chunk, B, H (2 dk + dv')]
    R *d_output, *d_received, *dh_new, *d_h_read;  // scratch: [N B, P], [N B, H dv'], twice [N, B, D]
    idx I, key_size, value_size;  // widths of the input, and of its key and value
    idx attends;  // whether units compete for the input; if not, each reads all of it
    const R *x, *key, *value;  // [T, B, I], [I, key_size], [I, value_size]
    const R *query, *weight_input;  // [N, D, key_size], [N, value_size, G]
    const R *read_scale;  // dropout of what is read, [T, N, B], or null
    R *keys, *values;  // [T, B, key_size], [T, B, value_size]; here T is `chunk` without `keep`
    R *unit_keys;  // the keys, met by the units' queries: [N, T, B, D], as above
    R *share, *reads;  // [T, N, B], scratch: [N, chunk, B, G]
    R *dx;  // [T, B, I], or null
    R *d_key, *d_value, *d_query, *d_weight_input;  // of the weights, which are added to
    R *d_keys, *d_values, *d_scores;  // scratch: [chunk, B, key_size], [chunk, B, value_size], [chunk, N, B]
    R *d_input, *h_scaled;  // scratch: [B, value_size], [chunk, B, D]
};

template <typename R> struct LSTMSequence {
    idx T, B, N, D, keep;  // as above
    Gemm<R> gemm;  // the product of matrices of torch's BLAS; null: ours
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start, *c_start;  // [N, D]: at the start of an episode
    const R *h_first, *c_first;  // [B, N D]: before the first step
    R *h_last, *c_last;  // [B, N D]: after the last step
    R *y;  // [B, N D] of each step, which are `y_step` apart
    idx y_step;  // from step to step of y, and of dy
    const R *input_gates, *weight_hidden, *ones;  // [N, T, B, 4 D], [N, D, 4 D], [N, B]
    R *h, *c;  // before and after each step: [N, T + 1, B, D]
    R *gates, *tanh_c;  // [T, N, B, 4 D], [T, N, B, D]
    const R *dy;  // as y; this and all below are for the backward pass
    const R *dh_last, *dc_last;  // [B, N D]
    R *dh_first, *dc_first;  // [B, N D]
    R *dh_start, *dc_start;  // [N, D], added to
    R *dh, *dc;  // scratch: [N, B, D]
    R *d_gates, *dh_new, *nothing;  // [N, T, B, 4 D], [N, B, D], zeros [N, B, D]
};

template <typename R> struct RigLSTMSequence {
    idx T, B, N, D;  // time steps, rows, units, width of a unit
    idx V, F, dk, dv;  // views, their width, width of a query or key, width of what is read of a unit
    idx K, views_kept, units_kept;  // active units, views that a unit reads, other units that it reads
    idx keep, chunk;  // as above; steps whose weights' gradients are taken together
    idx is_packed;  // whether `packed` holds the weights
    R *packed;  // weights as the forward pass multiplies by them, for the next call; null: not kept
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start, *c_start;  // [N, D]: at the start of an episode
    const R *h_first, *c_first;  // [B, N D]: before the first step
    R *h_last, *c_last;  // [B, N D]: after the last step
    R *y;  // [B, N D] of each step, which are `y_step` apart
    idx y_step;  // from step to step of y, and of dy
    const R *views, *keys, *soft_input;  // [T, B, V, F], [T, B, V, dk], [T, B, dk]
    const R *query, *weight_input, *bias;  // [N, D, dk], [N, F, 4 D], [N, 4 D]
    const R *weight_own, *weight_others, *query_key_value;  // [N, D, 4 D], [N, dv, 4 D], [N, D, 2 dk + dv]
    const R *soft_matrix, *soft_key;  // [2 D, dk], [D, dk]
    R *h, *c;  // before and after each step: [N, T + 1, B, D]
    R *queries, *attention, *read, *priority;  // [T, N, B, dk], [T, B, N, V], [T, B, N, F], scratch: [N, B]
    R *qkv, *unit_attention, *others;  // [T, N, B, 2 dk + dv], [T, B, N, N], [N, T, B, dv]
    R *received;  // scratch: [N, B, dv]
    R *gates, *tanh_c, *h_new, *mask, *share;  // [T, N, B, 4 D], twice [T, N, B, D], twice [T, N, B]
    R *means, *soft_query, *direction;  // [T, B, 2 D], [T, B, dk], [T, B, D]
    const R *dy;  // as y; this and all below are for the backward pass
    const R *dh_last, *dc_last;  // [B, N D]
    R *dh_first, *dc_first;  // [B, N D]
    R *dh_start, *dc_start;  // [N, D], added to
    R *dh, *dc;  // scratch: [N, B, D]
    const R *ones, *nothing;  // [N, B], zeros [N, B, D]
    R *d_views, *d_keys, *d_soft_input;  // [T, B, V, F], [T, B, V, dk], [T, B, dk]
    R *d_query, *d_weight_input, *d_bias;  // as the weights; these and the next two rows are added to
    R *d_weight_own, *d_weight_others, *d_query_key_value;  // the same
    R *d_soft_matrix, *d_soft_key;  // the same; d_soft_key times sqrt(dk)
    R *d_gates, *d_queries, *d_qkv;  // scratch: [N, chunk, B, 4 D], [.., dk], [.., 2 dk + dv]
    R *d_direction, *d_means, *dh_new, *dc_past;  // scratch: [chunk, B, D], [B, 2 D], twice [N, B, D]
    R *d_read, *d_others;  // scratch: [N, B, F], [N, B, dv]
};

template <typename R> struct RMCSequence {
    idx T, B, N, D, E;  // time steps, rows, slots, their width F, elements of the input; R is N + E
    idx H, dk, dv;  // heads, width of a key and of a value; W is H (2 dk + dv)
    idx blocks, layers;  // rounds K of attention, layers L of the perceptron
    idx keep;  // as above
    idx is_packed;  // whether `packed` holds the weights
    R *packed;  // weights as the forward pass multiplies by them, for the next call; null: not kept
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start;  // [N, D]: at the start of an episode
    const R *h_first;  // [B, N D]: before the first step
    R *h_last;  // [B, N D]: after the last step
    R *y;  // [B, N D] of each step, which are `y_step` apart
    idx y_step;  // from step to step of y, and of dy
    const R *rows, *gate_input;  // [T, B, E, F], [T, B, 2 F] with the constants that are added to gates
    const R *qkv_weight, *qkv_bias, *qkv_scale, *qkv_shift;  // [K, W, F], thrice [K, W]
    const R *first_scale, *first_shift, *second_scale, *second_shift;  // [K, F]: of the norms in a block
    const R *mlp_weight, *mlp_bias, *gate_memory;  // [L, F, F], [L, F], [2 F, F]
    R *h;  // before and after each step: [N, T + 1, B, F]
    R *z;  // what enters the blocks and what leaves the last: [T, K + 1, R, B, F]
    R *qkv_hat, *qkv, *attention;  // [T, K, R, B, W], the same, [T, K, B, H, R, R]; hat: normalised
    R *first_hat, *between, *second_hat;  // [T, K, R, B, F]
    R *hidden, *deviation;  // [T, K, L - 1, R, B, F], [T, K, 3, R, B]: inverse standard deviations
    R *gates, *tanh_memory, *tanh_new;  // [T, N, B, 2 F], twice [T, N, B, F]
    const R *dy;  // as y; this and all below are for the backward pass
    const R *dh_last;  // [B, N D]
    R *dh_first;  // [B, N D]
    R *dh_start;  // [N, D], added to
    R *dh;  // scratch: [N, B, D]
    R *d_rows, *d_gate_input;  // [T, B, E, F], [T, B, 2 F]
    R *d_qkv_weight, *d_qkv_bias, *d_qkv_scale, *d_qkv_shift;  // as the weights: added to, like all that follows
    R *d_first_scale, *d_first_shift, *d_second_scale, *d_second_shift;  // the same
    R *d_mlp_weight, *d_mlp_bias, *d_gate_memory;  // the same
    R *dz, *d_first, *d_second, *d_qkv, *d_gates;  // scratch: thrice [R, B, F], [R, B, W], [N, B, 2 F]
};

template <typename R> struct BRIMsLayer {
    idx T, B, N, D;  // time steps, rows, units, width of a unit
    idx G;  // width of a unit's gates: 4 D for an LSTM, 3 D for a GRU
    idx K, keep;  // active units; 0: all steps share one slot of what only the backward pass reads
    idx chunk;  // steps that enter a product together, where a step does not need it right away
    idx over_units;  // whether units share the input out, instead of taking their share from null
    idx H, dk, dv;  // communication: heads, width of a key and of a value; no heads: none
    idx P;  // width of what is made of messages: 2 D with a gate, D without, 0 without communication
    idx num_read;  // how many units each head of a unit reads
    idx keeps_messages;  // whether `qkv` and `received` are kept for the backward pass, or made anew there
    idx is_joined;  // whether values are projected before units read them: dv' is P then, else dv
    idx is_packed;  // whether `packed` holds the weights
    R *packed;  // weights as the forward pass multiplies by them, for the next call; null: not kept
    const uint8_t *starts;  // [T, B], or null: no episode starts
    const R *h_start, *c_start;  // [N, D]: at the start of an episode
    const R *h_first, *c_first;  // [B, N D]: before the first step
    R *h_last, *c_last;  // [B, N D]: after the last step
    R *y;  // [B, N D] of each step, which are `y_step` apart
    idx y_step;  // from step to step of y, and of dy
    const R *weight_hidden, *bias, *bias_hidden;  // [N, D, G], twice [N, G]; the last of a GRU, else null
    const R *query_key_value, *project, *project_bias;  // [N, D, H (2 dk + dv)], [P, H dv], [P]
    const R *message_scale;  // dropout of messages, [T, N, B, D], or null
    R *h, *c;  // before and after each step: [N, T + 1, B, D]
    R *gates, *mask;  // [T, N, B, G], [T, N, B]
    R *tanh_c, *hidden;  // [T, N, B, D], of a GRU what the state adds to the new gate; its scratch: [N, B, G]
    R *h_new, *h_read;  // [N, T, B, D]: candidates, and what communication reads; the same if it reads these
    R *attention, *output;  // [T, B, H, N, N], [T, N B, P]
    R *qkv, *received;  // [T, N, B, H (2 dk + dv')], [T, N B, H dv'], or scratch without T
    const R *dy;  // as y; this and all below are for the backward pass
    const R *dh_last, *dc_last;  // [B, N D]
    R *dh_first, *dc_first;  // [B, N D]
    R *dh_start, *dc_start;  // [N, D], added to
    R *dh, *dc;  // scratch: [N, B, D]
    R *d_weight_hidden, *d_bias, *d_bias_hidden;  // of the weights, which are added to
    R *d_query_key_value, *d_project, *d_project_bias;  // the same
    R *d_gates, *d_hidden, *d_qkv;  // scratch: twice [N, chunk, B, G], the second of a GRU; [N, chunk, B, H (2 dk + dv')]
    R *d_output, *d_received, *dh_new, *d_h_read;  // scratch: [N B, P], [N B, H dv'], twice [N, B, D]
    idx L;  // layers, which lie one after the other; W is N D
    idx heads, key_size, value_size;  // input attention: heads, widths of a key and a value; U is heads value_size
    idx M, I;  // elements of the input, 0 but for the first layer, and their width
    idx below, above;  // layers down and up to those that are elements, too, or 0; M' counts all, E is as below
    const R *x, *input_weight;  // [T, B, M, I], [M, I, E]: keys of all heads, then values, E = heads key_size + U
    const R *below_weight, *above_weight;  // [W, E]; null where there is none
    const R *query, *weight_input;  // [N, D, heads key_size], [N, U, G]
    const R *read_scale;  // dropout of what is read, [T, N, B, heads, M'], or null
    R *rows, *outputs;  // before and after a step: [T + 1, B, W], [T, B, W]; y, and dy, may be null
    R *elements, *queries;  // [T, B, M', E], kept in any case; [T, N, B, heads key_size]
    R *weights, *read, *priority;  // [T, N, B, heads, 1 + M'], [N, T, B, U], [T, N, B]
    R *dx, *d_rows, *d_read;  // [T, B, M, I], or null; scratch: [B, W], [N, B, U]
    R *d_queries, *d_elements;  // scratch: [N, chunk, B, heads key_size], [chunk, B, M', E]
    R *d_query, *d_weight_input;  // of the weights, which are added to, as all that follows
    R *d_input_weight, *d_below_weight, *d_above_weight;  // the same
};
