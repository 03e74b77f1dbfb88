// The loop over time and layers of BRIMs, and of a RIM that reads several elements or with several heads, which is one
// layer. Part of `loops.h`.

template <typename R> struct BRIMsPanels {
    Panels<R> query, input, below, above, weight_input;
    UnitsPanels<R> units;
};

// How many elements a layer reads, and the width of one, its keys and values.
template <typename R> idx brims_elements(const BRIMsLayer<R>* s) { return s->M + (s->below ? 1 : 0) + (s->above ? 1 : 0); }
template <typename R> idx brims_width(const BRIMsLayer<R>* s) { return s->heads * (s->key_size + s->value_size); }

// The matrices of a layer as the forward pass needs them, or as the backward pass does.
template <typename R> BRIMsPanels<R> brims_layer_panels(const BRIMsLayer<R>* s, bool back) {
    const idx N = s->N, D = s->D, W = N * D, E = brims_width(s);
    PackedMemory<R> packed = {back ? nullptr : s->packed, s->is_packed != 0};
    return {panels_of(back, N, D, s->heads * s->key_size, s->query, packed),
            panels_of(back, s->M, s->I, E, s->input_weight, packed),
            panels_of(back, idx(s->below != 0), W, E, s->below_weight, packed),
            panels_of(back, idx(s->above != 0), W, E, s->above_weight, packed),
            panels_of(back, N, s->heads * s->value_size, s->G, s->weight_input, packed),
            units_panels(s, back, packed)};
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

template <typename R>
INLINE void brims_layer_forward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels, idx* active, R* scratch, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, step = B * D, W = N * D, state = (T + 1) * step;
    const idx H = s->heads, Q = H * s->key_size, U = H * s->value_size, E = brims_width(s), M = brims_elements(s);
    const idx slot = s->keep ? t : 0, at = slot * N * B, kept = s->keep ? T : 1;
    R *h = s->h + t * step, *gates = s->gates + at * G, *read = s->read + slot * B * U, *queries = s->queries + at * Q;
    R *layer_output = s->outputs + slot * B * W, *elements = s->elements + t * B * M * E, *weights = s->weights + at * H * (1 + M);
    if (t % s->chunk == 0) {
        const idx rows = (T - t < s->chunk ? T - t : s->chunk) * B;
        for (idx m = 0; m < s->M; ++m)
            row_product(rows, nullptr, E, s->I, s->x + (t * B * s->M + m) * s->I, s->M * s->I, panels.input[m], false,
                        elements + m * E, M * E);
    }
    idx m = s->M;
    if (s->below)
        row_product(B, nullptr, E, W, (s - s->below)->outputs + slot * B * W, W, panels.below[0], false, elements + m++ * E, M * E);
    if (s->above)
        row_product(B, nullptr, E, W, (s + s->above)->rows + t * B * W, W, panels.above[0], false, elements + m * E, M * E);
    for (idx n = 0; n < N; ++n)
        row_product(B, nullptr, Q, D, h + n * state, D, panels.query[n], false, queries + n * B * Q, Q);
    attend_to_elements(N, B, H, s->key_size, s->value_size, M, s->over_units, (const R*)queries, (const R*)elements, weights,
                       s->priority + at);
    read_elements(N, B, H, s->key_size, s->value_size, M, (const R*)elements, (const R*)weights,
                  s->read_scale ? s->read_scale + t * N * B * H * M : nullptr, read, kept * B * U, scratch);
    choose(N, B, s->K, (const R*)s->priority + at, s->mask + at);
    for (idx n = 0; n < N; ++n) {
        R* g = gates + n * B * G;
        for (idx b = 0; b < B; ++b) std::memcpy(g + b * G, s->bias + n * G, G * sizeof(R));
        row_product(B, nullptr, G, U, read + n * kept * B * U, U, panels.weight_input[n], true, g, G);
    }
    units_forward(s, panels.units, active, t, layer_output);
    std::memcpy(s->rows + (t + 1) * B * W, layer_output, B * W * sizeof(R));
    if (s->y) std::memcpy(s->y + t * s->y_step, layer_output, B * W * sizeof(R));
    if (t == T - 1) {
        std::memcpy(s->h_last, layer_output, B * W * sizeof(R));
        rows_first(N, B, D, (const R*)s->c + T * step, state, s->c_last);
    }
}

template <typename R>
INLINE void brims_layer_backward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels, idx* active, R* scratch, idx t) {
    const idx B = s->B, N = s->N, D = s->D, G = s->G, step = B * D, W = N * D, at = t * N * B;
    const idx H = s->heads, Q = H * s->key_size, U = H * s->value_size, E = brims_width(s), M = brims_elements(s);
    const idx in_chunk = t % s->chunk, slots = s->chunk * B;
    const R* mask = s->mask + at;
    R *d_queries = s->d_queries + in_chunk * B * Q, *d_elements = s->d_elements + in_chunk * B * M * E;
    idx counts[MAX_UNITS];
    if (s->dy) add_to(B * W, s->dy + t * s->y_step, s->d_rows);
    units_backward(s, panels.units, active, counts, t, (const R*)s->d_rows);
    std::memset(s->d_rows, 0, B * W * sizeof(R));
    std::memset(s->d_read, 0, N * B * U * sizeof(R));
    for (idx n = 0; n < N; ++n)
        row_product(counts[n], active + n * B, U, G, s->d_gates + (n * slots + in_chunk * B) * G, G, panels.weight_input[n],
                    false, s->d_read + n * B * U, U);
    read_elements_backward(N, B, H, s->key_size, s->value_size, M, s->over_units, (const R*)s->queries + at * Q,
                           (const R*)s->elements + t * B * M * E, (const R*)s->weights + at * H * (1 + M),
                           s->read_scale ? s->read_scale + at * H * M : nullptr, mask, (const R*)s->d_read, d_queries,
                           slots * Q, d_elements, scratch);
    // Where units share the elements out, those that lose have a gradient as well.
    for (idx n = 0; n < N; ++n)
        row_product(s->over_units ? B : counts[n], s->over_units ? nullptr : active + n * B, D, Q, d_queries + n * slots * Q, Q,
                    panels.query[n], true, s->dh + n * step, D);
    idx m = s->M;
    if (s->below)
        row_product(B, nullptr, W, E, d_elements + m++ * E, M * E, panels.below[0], true, (s - s->below)->d_rows, W);
    if (s->above) row_product(B, nullptr, W, E, d_elements + m * E, M * E, panels.above[0], true, (s + s->above)->d_rows, W);
}

// Gradients of a layer's weights and input, of the steps of one chunk from `t` on.
template <typename R> INLINE void brims_chunk_backward(const BRIMsLayer<R>* s, BRIMsPanels<R>& panels, idx* active, idx t) {
    const idx T = s->T, B = s->B, N = s->N, D = s->D, G = s->G, W = N * D, steps = T - t < s->chunk ? T - t : s->chunk;
    const idx Q = s->heads * s->key_size, U = s->heads * s->value_size, E = brims_width(s), M = brims_elements(s);
    const idx rows = steps * B, I = s->I;
    units_chunk_backward(s, panels.units, active, t);
    for (idx n = 0; n < N; ++n) {
        const idx count = list_active_of(n, N, steps, B, (const R*)s->mask + t * N * B, active);
        const idx in_chunk = n * s->chunk * B;
        const R* h = s->h + (n * (T + 1) + t) * B * D;
        add_gradient(count, active, U, G, s->read + (n * T + t) * B * U, U, s->d_gates + in_chunk * G, G,
                     s->d_weight_input + n * U * G);
        add_gradient(s->over_units ? rows : count, s->over_units ? nullptr : active, D, Q, h, D, s->d_queries + in_chunk * Q, Q,
                     s->d_query + n * D * Q);
    }
    idx m = 0;
    for (; m < s->M; ++m) {
        const R* d = s->d_elements + m * E;
        add_gradient(rows, nullptr, I, E, s->x + (t * B * s->M + m) * I, s->M * I, d, M * E, s->d_input_weight + m * I * E);
        if (s->dx)
            row_product(rows, nullptr, I, E, d, M * E, panels.input[m], false, s->dx + (t * B * s->M + m) * I, s->M * I);
    }
    if (s->below)
        add_gradient(rows, nullptr, W, E, (s - s->below)->outputs + t * B * W, W, s->d_elements + m++ * E, M * E,
                     s->d_below_weight);
    if (s->above)
        add_gradient(rows, nullptr, W, E, (s + s->above)->rows + t * B * W, W, s->d_elements + m * E, M * E, s->d_above_weight);
}

template <typename R> INLINE void brims_layer_last_backward(const BRIMsLayer<R>* s) {
    units_last_backward<R>(s);
    std::memset(s->d_rows, 0, s->B * s->N * s->D * sizeof(R));
}

template <typename R> INLINE void brims_layer_first_backward(const BRIMsLayer<R>* s, const BRIMsPanels<R>& panels) {
    units_first_backward(s, panels.units);
    add_to(s->B * s->N * s->D, (const R*)s->d_rows, s->dh_first);
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

// Room for what the attention of one row and head needs, in any layer.
template <typename R> std::vector<R> brims_scratch(idx L, const BRIMsLayer<R>* layers) {
    idx scores = 0;
    for (idx l = 0; l < L; ++l) {
        const idx own = 2 * layers[l].N * brims_elements(layers + l);
        scores = scores < own ? own : scores;
    }
    return std::vector<R>(scores);
}

template <typename R> INLINE void brims_forward(const BRIMsLayer<R>* layers) {
    const idx L = layers->L;
    const auto panels = brims_panels(L, layers, false);
    auto rows = brims_rows(L, layers);
    auto scratch = brims_scratch(L, layers);
    for (idx t = 0; t < layers->T; ++t) {
        for (idx l = 0; l < L; ++l) brims_layer_start(layers + l, t);
        for (idx l = 0; l < L; ++l) brims_layer_forward(layers + l, panels[l], rows.data(), scratch.data(), t);
    }
}

template <typename R> INLINE void brims_backward(const BRIMsLayer<R>* layers) {
    const idx L = layers->L;
    auto panels = brims_panels(L, layers, true);
    auto rows = brims_rows(L, layers);
    auto scratch = brims_scratch(L, layers);
    for (idx l = 0; l < L; ++l) brims_layer_last_backward(layers + l);
    for (idx t = layers->T - 1; t >= 0; --t) {
        for (idx l = L - 1; l >= 0; --l) brims_layer_backward(layers + l, panels[l], rows.data(), scratch.data(), t);
        if (t % layers->chunk == 0)
            for (idx l = 0; l < L; ++l) brims_chunk_backward(layers + l, panels[l], rows.data(), t);
        for (idx l = 0; l < L; ++l) brims_layer_start_backward(layers + l, t);
    }
    for (idx l = 0; l < L; ++l) brims_layer_first_backward(layers + l, panels[l]);
}
