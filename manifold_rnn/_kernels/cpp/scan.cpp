// Scans of h_t = f(W h_{t-1} + V x_t + b) and their gradients, real; complex ones come as real ones of twice the size.
//
// Each thread takes some rows of the batch through all time. A step is one product with a packed matrix, by tiles of
// ROWS x 2 vectors that stay in registers, and f is applied to a tile while it is in the first cache. Backward, the
// gradients of a few steps are kept in a ring, and summed up as products over many rows at a time.
//
// The last vector of a row ends where the row does, and so overlaps the one before: what both write is the same.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "exports.h"
#include "nonlinearities.h"
#include "products.h"
#include "sums.h"
#include "threads.h"
#include "vectors.h"

namespace {

// Each page of a new buffer costs a fault at its first use; there are fewer large ones.
void prefer_large_pages(void* data, int64_t bytes) {
#ifdef __linux__
    constexpr uintptr_t page = 1 << 21;
    const uintptr_t start = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
    const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
    if (end > start + 2 * page) madvise(reinterpret_cast<void*>(start), end - start, MADV_HUGEPAGE);
#endif
}

template <class T, class F>
void forward(const Scan<T>& s) {
    const int64_t n = s.units, m = s.features;
    const Right<T> W(s.W, n, n, 1, n), V(s.V, s.V ? m : 0, n, 1, m);
    prefer_large_pages(s.states, (s.steps + 1) * s.batch * n * sizeof(T));
    const int64_t slices = s.slices();
    std::vector<Buffer<T>> scratches;
    for (int64_t i = 0; i < slices; ++i) scratches.emplace_back(ROWS * 2 * LANES<T>);
    share(slices, [&](int64_t i) {
        const int64_t low = s.batch * i / slices, rows = s.batch * (i + 1) / slices - low;
        for (int64_t t = 0; t < s.steps; ++t) {
            const T* x = s.x + t * s.x_step + low * s.x_row;
            T *h = s.states + (t * s.batch + low) * n, *next = h + s.batch * n;
            T* z = F::keeps ? s.arguments + (t * s.batch + low) * n : nullptr;
            const auto done = [&](int64_t first, int64_t count, int64_t vector, const T* found) {
                const int64_t c = W.column(vector);
                const Vec<T> bias = s.bias ? read(s.bias + c, W.lanes) : Vec<T>{};
                const Vec<T> threshold = s.threshold ? read(s.threshold + c, W.lanes) : Vec<T>{};
                for (int64_t r = 0; r < count; ++r) {
                    Vec<T> u = read(found + r * 2 * LANES<T>) + bias;
                    if (!s.V) u += read(x + (first + r) * s.x_row + c, W.lanes);
                    const int64_t at = (first + r) * n + c;
                    if (F::keeps) write(z + at, u, W.lanes);
                    write(next + at, F::template apply<T>(u, threshold), W.lanes);
                }
            };
            multiply<T>({h, n}, W, {x, s.x_row}, s.V ? &V : nullptr, rows, scratches[i], done);
        }
    });
}

template <class T, class F>
void run_back(Slice<T>& slice, const Right<T>& W, const Right<T>& V) {
    const Scan<T>& s = slice.s;
    const int64_t n = s.units, rows = slice.rows, R = slice.ring_steps;
    const T* after = nullptr;
    for (int64_t end = s.steps; end > 0; end -= R) {
        const int64_t start = std::max<int64_t>(0, end - R);
        for (int64_t t = end - 1; t >= start; --t) {
            const int64_t place = (t * s.batch + slice.low) * n;
            const T* kept = F::keeps ? s.arguments + place : s.states + s.batch * n + place;
            const T* gy = s.gy ? s.gy + t * s.g_step + slice.low * s.g_row : nullptr;
            const T* gh = s.gh && t == s.steps - 1 ? s.gh + slice.low * n : nullptr;
            T* slot = slice.ring + (t - start) * rows * n;
            const auto done = [&](int64_t first, int64_t count, int64_t vector, const T* found) {
                const int64_t c = W.column(vector), lanes = W.lanes;
                const Vec<T> threshold = s.threshold ? read(s.threshold + c, lanes) : Vec<T>{};
                Vec<T> sum{};
                for (int64_t r = 0; r < count; ++r) {
                    const int64_t at = (first + r) * n + c;
                    Vec<T> g = read(found + r * 2 * LANES<T>);
                    if (gy) {
                        const T* from = gy + (first + r) * s.g_row + c;
                        g += read(from, lanes);
                        __builtin_prefetch(from - s.g_step);  // for the next step, which is the one before in time
                    }
                    if (gh) g += read(gh + at, lanes);
                    write(slot + at, F::template back<T>(g, read(kept + at, lanes), threshold, sum), lanes);
                    __builtin_prefetch(kept + at - s.batch * n);
                }
                T* sums = slice.partial + vector * LANES<T>;
                if (s.gt) write(sums, read(sums) + sum);
            };
            multiply<T>({after, n}, W, {nullptr, 0}, nullptr, rows, slice.scratch, done);
            after = slot;
        }
        slice.add(start, end - start);
        for (int64_t t = start; s.gx && t < end; ++t) {
            const T* d = slice.ring + (t - start) * rows * n;
            T* gx = s.gx + (t * s.batch + slice.low) * s.features;
            if (!s.V) {
                std::memcpy(gx, d, rows * n * sizeof(T));
                continue;
            }
            multiply<T>({d, n}, V, {nullptr, 0}, nullptr, rows, slice.scratch,
                        [&](int64_t first, int64_t count, int64_t vector, const T* found) {
                            T* to = gx + first * s.features + V.column(vector);
                            for (int64_t r = 0; r < count; ++r)
                                write(to + r * s.features, read(found + r * 2 * LANES<T>), V.lanes);
                        });
        }
        std::memcpy(slice.carry, slice.ring, rows * n * sizeof(T));  // the slot may be that of the next step
        after = slice.carry;
    }
    if (!s.gh0) return;
    multiply<T>({after, n}, W, {nullptr, 0}, nullptr, rows, slice.scratch,
                [&](int64_t first, int64_t count, int64_t vector, const T* found) {
                    T* to = s.gh0 + (slice.low + first) * n + W.column(vector);
                    for (int64_t r = 0; r < count; ++r) write(to + r * n, read(found + r * 2 * LANES<T>), W.lanes);
                });
}

template <class T, class F>
void backward(const Scan<T>& s) {
    const int64_t n = s.units, m = s.features, slices = s.slices();
    const bool through = s.gx && s.V;
    const Right<T> W(s.W, n, n, n, 1), V(s.V, through ? n : 0, through ? m : 1, m, 1);
    std::vector<Slice<T>> parts;
    parts.reserve(slices);
    for (int64_t i = 0; i < slices; ++i) {
        const int64_t low = s.batch * i / slices;
        parts.emplace_back(s, low, s.batch * (i + 1) / slices - low);
    }
    share(slices, [&](int64_t i) { run_back<T, F>(parts[i], W, V); });
    for (const Slice<T>& part : parts) {  // in order, so that the same threads give the same sums
        for (int64_t i = 0; i < n; ++i) {
            const T* row = part.total + i * part.line;
            for (int64_t j = 0; s.gW && j < n; ++j) s.gW[i * n + j] += row[j];
            row += s.gW ? n : 0;
            for (int64_t j = 0; s.gV && j < m; ++j) s.gV[i * m + j] += row[j];
            row += s.gV ? m : 0;
            if (s.gb) s.gb[i] += *row;
            const int64_t vector = i / LANES<T>;
            if (s.gt) s.gt[i] += part.thresholds[vector * LANES<T> + i - W.column(vector)];
        }
    }
}

template <class T, bool BACK, class F>
int call(const Scan<T>& s) {
    try {
        BACK ? backward<T, F>(s) : forward<T, F>(s);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

template <class T, bool BACK>
int choose(const Scan<T>& s) {
    switch (s.activation) {
    case 0: return call<T, BACK, Linear>(s);
    case 1: return call<T, BACK, Relu>(s);
    case 2: return call<T, BACK, Tanh>(s);
    case 3: return call<T, BACK, ModRelu>(s);
    default: return call<T, BACK, ComplexModRelu>(s);
    }
}

}  // namespace

extern "C" {
EXPORTED int forward_float(const Scan<float>* s) { return choose<float, false>(*s); }
EXPORTED int forward_double(const Scan<double>* s) { return choose<double, false>(*s); }
EXPORTED int backward_float(const Scan<float>* s) { return choose<float, true>(*s); }
EXPORTED int backward_double(const Scan<double>* s) { return choose<double, true>(*s); }
}
