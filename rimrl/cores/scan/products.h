// Products of small matrices, row-major. Rows that take no part, such as those of inactive units, cost nothing.
//
// The matrix on the right is packed beforehand: its columns side by side in panels as wide as a vector, [n / L, k, L],
// filled up with zeros. A tile of the result is summed in registers, row by row of a panel.
template <typename R, int BYTES> struct Lanes {
    static const idx size = BYTES / sizeof(R);
#if defined(_MSC_VER) && !defined(__clang__)
    struct Vector {
        R x[size];
        R& operator[](idx j) { return x[j]; }
        R operator[](idx j) const { return x[j]; }
        Vector operator*(const Vector& other) const {
            Vector product;
            for (idx j = 0; j < size; ++j) product.x[j] = x[j] * other.x[j];
            return product;
        }
        Vector& operator+=(const Vector& other) {
            for (idx j = 0; j < size; ++j) x[j] += other.x[j];
            return *this;
        }
    };
#else
    typedef R Vector __attribute__((vector_size(BYTES)));
#endif
};
// Of a product of matrices, and of the product of two rows.
template <typename R> using Wide = Lanes<R, WIDE_BYTES>;
template <typename R> using Narrow = Lanes<R, NARROW_BYTES>;

#if defined(_MSC_VER) && !defined(__clang__)
template <typename V, typename R> INLINE void add_scaled(V& sum, R w, const V& v) {
    for (idx j = 0; j < idx(sizeof(V) / sizeof(R)); ++j) sum.x[j] += w * v.x[j];
}
#else
template <typename V, typename R> INLINE void add_scaled(V& sum, R w, const V& v) { sum += w * v; }
#endif

// The first `width` entries of a vector; the others are zero.
template <typename V, typename R> INLINE V load(const R* p, idx width = sizeof(V) / sizeof(R)) {
    V v = {};
    if (width == sizeof(V) / sizeof(R))
        std::memcpy(&v, p, sizeof v);
    else
        std::memcpy(&v, p, width * sizeof(R));
    return v;
}
template <typename V, typename R> INLINE void store(R* p, V v, idx width = sizeof(V) / sizeof(R)) {
    if (width == sizeof(V) / sizeof(R))
        std::memcpy(p, &v, sizeof v);
    else
        std::memcpy(p, &v, width * sizeof(R));
}

// The sums of four vectors.
template <typename V, typename R> INLINE void four_sums(V a, V b, V c, V d, R* out) {
#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
    if constexpr (sizeof(V) == 8 * sizeof(R)) {
        const auto ab = __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
                        __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
        const auto cd = __builtin_shufflevector(c, d, 0, 1, 2, 3, 8, 9, 10, 11) +
                        __builtin_shufflevector(c, d, 4, 5, 6, 7, 12, 13, 14, 15);
        const auto two = __builtin_shufflevector(ab, cd, 0, 1, 4, 5, 8, 9, 12, 13) +
                         __builtin_shufflevector(ab, cd, 2, 3, 6, 7, 10, 11, 14, 15);
        const auto one = __builtin_shufflevector(two, two, 0, 2, 4, 6) + __builtin_shufflevector(two, two, 1, 3, 5, 7);
        std::memcpy(out, &one, sizeof one);
        return;
    } else if constexpr (sizeof(V) == 4 * sizeof(R)) {
        const auto ab = __builtin_shufflevector(a, b, 0, 1, 4, 5) + __builtin_shufflevector(a, b, 2, 3, 6, 7);
        const auto cd = __builtin_shufflevector(c, d, 0, 1, 4, 5) + __builtin_shufflevector(c, d, 2, 3, 6, 7);
        const auto one = __builtin_shufflevector(ab, cd, 0, 2, 4, 6) + __builtin_shufflevector(ab, cd, 1, 3, 5, 7);
        std::memcpy(out, &one, sizeof one);
        return;
    }
#endif
    for (int r = 0; r < 4; ++r) out[r] = 0;
    for (idx j = 0; j < idx(sizeof(V) / sizeof(R)); ++j) {
        out[0] += a[j];
        out[1] += b[j];
        out[2] += c[j];
        out[3] += d[j];
    }
}

// out_r = scale times the product of two rows of n entries, for four pairs of rows.
template <typename R> INLINE void four_dots(idx n, const R* const* a, const R* const* b, R scale, R* out) {
    using V = typename Narrow<R>::Vector;
    const idx L = Narrow<R>::size;
    V s0 = {}, s1 = {}, s2 = {}, s3 = {};
    idx k = 0;
    for (; k + L <= n; k += L) {
        s0 += load<V>(a[0] + k) * load<V>(b[0] + k);
        s1 += load<V>(a[1] + k) * load<V>(b[1] + k);
        s2 += load<V>(a[2] + k) * load<V>(b[2] + k);
        s3 += load<V>(a[3] + k) * load<V>(b[3] + k);
    }
    if (k < n) {
        s0 += load<V>(a[0] + k, n - k) * load<V>(b[0] + k, n - k);
        s1 += load<V>(a[1] + k, n - k) * load<V>(b[1] + k, n - k);
        s2 += load<V>(a[2] + k, n - k) * load<V>(b[2] + k, n - k);
        s3 += load<V>(a[3] + k, n - k) * load<V>(b[3] + k, n - k);
    }
    four_sums(s0, s1, s2, s3, out);
    for (int r = 0; r < 4; ++r) out[r] *= scale;
}

// out_j = scale times the product of rows a_j and b_j of n entries, for `count` pairs; `lda` may be 0.
template <typename R>
INLINE void row_dots(idx count, idx n, const R* a, idx lda, const R* b, idx ldb, R scale, R* out) {
    for (idx j = 0; j < count; j += 4) {
        const idx last = count - 1, j1 = j + 1 < last ? j + 1 : last, j2 = j + 2 < last ? j + 2 : last,
                  j3 = j + 3 < last ? j + 3 : last;
        const R* const left[4] = {a + j * lda, a + j1 * lda, a + j2 * lda, a + j3 * lda};
        const R* const right[4] = {b + j * ldb, b + j1 * ldb, b + j2 * ldb, b + j3 * ldb};
        R four[4];
        four_dots(n, left, right, scale, four);
        if (j + 4 <= count)
            std::memcpy(out + j, four, sizeof four);
        else
            for (idx r = 0; j + r < count; ++r) out[j + r] = four[r];
    }
}

// out_i = sum over m < J of w_im x_m, for ROWS rows i and VECTORS vectors of each; `width` counts the entries of the last
// vector, and is known to be all of them if IS_WHOLE.
template <typename R, int ROWS, int VECTORS, bool IS_WHOLE>
INLINE void mix_tile(idx J, idx width, const R* w, idx w_row, idx w_step, const R* x, idx ldx, R* out, idx ldo) {
    using V = typename Narrow<R>::Vector;
    const idx L = Narrow<R>::size, last = IS_WHOLE ? VECTORS : VECTORS - 1;
    V sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = V{};
    for (idx m = 0; m < J; ++m) {
        V y[VECTORS];
        for (int v = 0; v < VECTORS; ++v) y[v] = load<V>(x + m * ldx + v * L, v == last ? width : L);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) add_scaled(sum[r][v], w[r * w_row + m * w_step], y[v]);
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) store(out + r * ldo + v * L, sum[r][v], v == last ? width : L);
}

// All columns of ROWS rows.
template <typename R, int ROWS>
INLINE void mix_strip(idx J, idx n, const R* w, idx w_row, idx w_step, const R* x, idx ldx, R* out, idx ldo) {
    const idx L = Narrow<R>::size;
    idx j = 0;
    for (; j + 2 * L <= n; j += 2 * L) mix_tile<R, ROWS, 2, true>(J, L, w, w_row, w_step, x + j, ldx, out + j, ldo);
    for (; j + L <= n; j += L) mix_tile<R, ROWS, 1, true>(J, L, w, w_row, w_step, x + j, ldx, out + j, ldo);
    if (j < n) mix_tile<R, ROWS, 1, false>(J, n - j, w, w_row, w_step, x + j, ldx, out + j, ldo);
}

// out [I, n] = w [I, J] x [J, n]; entries of w are `w_row` and `w_step` apart.
template <typename R>
INLINE void mix_rows(idx I, idx J, idx n, const R* w, idx w_row, idx w_step, const R* x, idx ldx, R* out, idx ldo) {
    idx i = 0;
    for (; i + 3 <= I; i += 3) mix_strip<R, 3>(J, n, w + i * w_row, w_row, w_step, x, ldx, out + i * ldo, ldo);
    if (I - i == 2) mix_strip<R, 2>(J, n, w + i * w_row, w_row, w_step, x, ldx, out + i * ldo, ldo);
    if (I - i == 1) mix_strip<R, 1>(J, n, w + i * w_row, w_row, w_step, x, ldx, out + i * ldo, ldo);
}

// Rows `first` and following of all, or of those in a list.
INLINE idx row_at(const idx* rows, idx i) { return rows ? rows[i] : i; }

template <typename R, int ROWS, int VECTORS>
INLINE void product_tile(idx first, const idx* rows, idx k, idx width, const R* a, idx lda, const R* panels, bool add, R* c,
                         idx ldc) {
    using V = typename Wide<R>::Vector;
    const idx L = Wide<R>::size, last = VECTORS - 1;
    V sum[ROWS][VECTORS];
    const R* row[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        const idx at = row_at(rows, first + r);
        row[r] = a + at * lda;
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = V{};
        if (add)
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = load<V>(c + at * ldc + v * L, v == last ? width : L);
    }
    for (idx i = 0; i < k; ++i) {
        V x[VECTORS];
        for (int v = 0; v < VECTORS; ++v) x[v] = load<V>(panels + (v * k + i) * L);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) add_scaled(sum[r][v], row[r][i], x[v]);
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v)
            store(c + row_at(rows, first + r) * ldc + v * L, sum[r][v], v == last ? width : L);
}

// Up to VECTORS panels for all rows, in tiles of about equal height.
template <typename R, int ROWS, int VECTORS>
INLINE void product_strip(idx count, const idx* rows, idx k, idx width, const R* a, idx lda, const R* panels, bool add,
                          R* c, idx ldc) {
    const idx tiles = (count + ROWS - 1) / ROWS;
    for (idx t = 0, first = 0; t < tiles; ++t) {
        const idx height = (count - first + tiles - t - 1) / (tiles - t);
#define HEIGHT(Q)                                                                                                     \
    case Q:                                                                                                           \
        if constexpr (Q <= ROWS) product_tile<R, Q, VECTORS>(first, rows, k, width, a, lda, panels, add, c, ldc); \
        break;
        switch (height) { HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6) HEIGHT(7) HEIGHT(8) }
        first += height;
    }
}

template <typename R, int ROWS, int VECTORS>
INLINE void product_strips(idx count, const idx* rows, idx n, idx k, const R* a, idx lda, const R* panels, bool add, R* c,
                           idx ldc) {
    const idx L = Wide<R>::size;
    for (idx j = 0; j < n; j += VECTORS * L) {
        const idx left = n - j, vectors = (left + L - 1) / L;
#define STRIP(Q)                                                                                               \
    case Q:                                                                                                    \
        if constexpr (Q <= VECTORS)                                                                            \
            product_strip<R, ROWS, Q>(count, rows, k, left < Q * L ? left - (Q - 1) * L : L, a, lda, panels + j * k, \
                                      add, c + j, ldc);                                                        \
        break;
        switch (vectors < VECTORS ? vectors : VECTORS) { STRIP(1) STRIP(2) STRIP(3) STRIP(4) }
    }
}

// The last `width` entries of a vector, to where it would end.
template <typename V, typename R> INLINE void store_last(R* p, V v, idx width) {
    const idx L = sizeof(V) / sizeof(R);
    if (width == L) {
        std::memcpy(p, &v, sizeof v);
        return;
    }
    R x[L];
    std::memcpy(x, &v, sizeof v);
    std::memcpy(p + L - width, x + L - width, width * sizeof(R));
}

// Of the last vector only the last `width` entries are written: the others, if there are some, belong to another tile.
template <typename R, int ROWS, int VECTORS>
INLINE void gradient_tile(idx count, const idx* rows, idx width, const R* a, idx lda, const R* b, idx ldb, R* c, idx ldc) {
    using V = typename Wide<R>::Vector;
    const idx L = Wide<R>::size, last = VECTORS - 1;
    V sum[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = load<V>(c + r * ldc + v * L);
    for (idx i = 0; i < count; ++i) {
        const idx at = row_at(rows, i);
        V x[VECTORS];
        for (int v = 0; v < VECTORS; ++v) x[v] = load<V>(b + at * ldb + v * L);
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) add_scaled(sum[r][v], a[at * lda + r], x[v]);
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) store_last(c + r * ldc + v * L, sum[r][v], v == last ? width : L);
}

// Columns of less than a vector.
template <typename R> INLINE void gradient_of_few(idx count, const idx* rows, idx k, idx n, const R* a, idx lda, const R* b,
                                                  idx ldb, R* c, idx ldc) {
    for (idx i = 0; i < count; ++i) {
        const idx at = row_at(rows, i);
        for (idx r = 0; r < k; ++r)
            for (idx j = 0; j < n; ++j) c[r * ldc + j] += a[at * lda + r] * b[at * ldb + j];
    }
}

template <typename R, int ROWS, int VECTORS>
INLINE void gradient_strip(idx count, const idx* rows, idx k, idx width, const R* a, idx lda, const R* b, idx ldb, R* c,
                           idx ldc) {
    const idx tiles = (k + ROWS - 1) / ROWS;
    for (idx t = 0, first = 0; t < tiles; ++t) {
        const idx height = (k - first + tiles - t - 1) / (tiles - t);
#define GRADIENT_HEIGHT(Q)                                                                                      \
    case Q:                                                                                                     \
        if constexpr (Q <= ROWS)                                                                                \
            gradient_tile<R, Q, VECTORS>(count, rows, width, a + first, lda, b, ldb, c + first * ldc, ldc); \
        break;
        switch (height) {
            GRADIENT_HEIGHT(1)
            GRADIENT_HEIGHT(2)
            GRADIENT_HEIGHT(3)
            GRADIENT_HEIGHT(4)
            GRADIENT_HEIGHT(5)
            GRADIENT_HEIGHT(6)
            GRADIENT_HEIGHT(7)
            GRADIENT_HEIGHT(8)
        }
        first += height;
    }
}

template <typename R, int ROWS, int VECTORS>
INLINE void gradient_strips(idx count, const idx* rows, idx k, idx n, const R* a, idx lda, const R* b, idx ldb, R* c) {
    const idx L = Wide<R>::size;
    if (n < L) return gradient_of_few(count, rows, k, n, a, lda, b, ldb, c, n);
    idx j = 0;
    for (; VECTORS > 1 && j + 2 * L <= n; j += 2 * L)
        gradient_strip<R, ROWS, 2>(count, rows, k, L, a, lda, b + j, ldb, c + j, n);
    for (; j < n; j += L) {
        const idx width = n - j < L ? n - j : L, from = j + width - L;
        gradient_strip<R, ROWS, 1>(count, rows, k, width, a, lda, b + from, ldb, c + from, n);
    }
}

template <typename R> NOT_INLINE void pack(idx k, idx n, const R* b, bool transposed, R factor, R* panels) {
    const idx L = Wide<R>::size;
    for (idx j = 0; j < n; j += L) {
        R* to = panels + j * k;
        const idx width = n - j < L ? n - j : L;
        if (width < L) std::memset(to, 0, k * L * sizeof(R));
        if (transposed)
            for (idx l = 0; l < width; ++l)
                for (idx i = 0; i < k; ++i) to[i * L + l] = factor * b[(j + l) * k + i];
        else if (width == L)
            for (idx i = 0; i < k; ++i) {
                typename Wide<R>::Vector scaled = {};
                add_scaled(scaled, factor, load<typename Wide<R>::Vector>(b + i * n + j));
                store(to + i * L, scaled);
            }
        else
            for (idx i = 0; i < k; ++i)
                for (idx l = 0; l < width; ++l) to[i * L + l] = factor * b[i * n + j + l];
    }
}

// Where packed matrices lie side by side that outlive a call, and whether they do already; null: each has memory of its own.
template <typename R> struct PackedMemory {
    R* next;
    bool filled;
};

// The packed form of a matrix [k, n] for each of N units, times a factor; with `transposed`, b holds it as [n, k].
template <typename R> class Panels {
  public:
    Panels(idx N, idx k, idx n, const R* b, bool transposed, R factor = R(1), PackedMemory<R>* shared = nullptr)
        : size((n + L - 1) / L * L * k) {
        const bool is_shared = shared && shared->next;
        if (!is_shared) memory.reset(new R[N * size + L]);
        first = is_shared ? shared->next : memory.get();
        while (reinterpret_cast<uintptr_t>(first) % (L * sizeof(R))) ++first;
        if (is_shared) shared->next = first + N * size;
        if (is_shared && shared->filled) return;
        for (idx u = 0; u < N; ++u) pack(k, n, b + u * k * n, transposed, factor, first + u * size);
    }
    const R* operator[](idx unit) const { return first + unit * size; }

  private:
    static const idx L = Wide<R>::size;
    idx size;
    std::unique_ptr<R[]> memory;
    R* first;
};
