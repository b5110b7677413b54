// What is asked of a scan, and the sums over time that make the gradients of its weights.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "products.h"
#include "vectors.h"

// Tensors without strides here are contiguous; those not wanted are null.
template <class T>
struct Scan {
    int64_t steps, batch, units, features, activation, threads;
    int64_t x_step, x_row, g_step, g_row;
    const T *x, *V, *bias, *threshold, *W;  // without V the inputs are added as they are
    T *states, *arguments;                  // (T + 1, B, n), the first of them given; and what f was applied to
    const T *gy, *gh;
    T *gx, *gV, *gb, *gt, *gW, *gh0;

    int64_t slices() const {  // of the batch: fewer rows than four leave registers empty
        const double work = 2.0 * steps * batch * units * (units + features);
        const int64_t useful = std::min<int64_t>(batch / 4, work / 4e6);
        return std::max<int64_t>(1, std::min(threads, useful));
    }
};

namespace {

constexpr int64_t PIECE = 256;  // rows in one product of gradients: their tiles fit the first cache

// What one thread has in the backward pass.
template <class T>
struct Slice {
    static constexpr int64_t L = LANES<T>;
    const Scan<T>& s;
    int64_t low, rows, ring_steps, columns, line;
    Buffer<T> ring, carry, scratch, left, right, total, partial, thresholds;

    Slice(const Scan<T>& s, int64_t low, int64_t rows)
        : s(s), low(low), rows(rows), ring_steps(std::max<int64_t>(1, std::min(s.steps, PIECE / rows))),
          columns((s.gW ? s.units : 0) + (s.gV ? s.features : 0) + (s.gb ? 1 : 0)), line((columns + L - 1) / L * L),
          ring(ring_steps * rows * s.units), carry(rows * s.units), scratch(ROWS * 2 * L), left(PIECE * ROWS),
          right(columns ? PIECE * (line + L) : 0), total((s.units + ROWS) * line), partial(s.units + 2 * L),
          thresholds(s.units + 2 * L) {}

    // Add to the total the products of the gradients of some steps with [h, x, 1].
    void add(int64_t start, int64_t steps) {
        for (int64_t from = 0; columns && from < steps * rows; from += PIECE)
            add_piece(start, from, std::min(PIECE, steps * rows - from));
        const int64_t sums = s.gt ? s.units + L : 0;
        for (int64_t j = 0; j < sums; ++j) thresholds[j] += partial[j], partial[j] = 0;
    }

    void add_piece(int64_t start, int64_t from, int64_t K) {
        for (int64_t k = 0; k < K; ++k) {
            const int64_t t = start + (from + k) / rows, b = low + (from + k) % rows;
            int64_t j = 0;
            if (s.gW) j = put(k, K, j, s.states + (t * s.batch + b) * s.units, s.units);
            if (s.gV) j = put(k, K, j, s.x + t * s.x_step + b * s.x_row, s.features);
            const T one = 1;
            if (s.gb) put(k, K, j, &one, 1);
        }
        const T* d = ring + from * s.units;
        for (int64_t i = 0; i < s.units; i += ROWS) {
            const int64_t height = std::min<int64_t>(ROWS, s.units - i);
            for (int64_t k = 0; k < K; ++k)
                if (height == ROWS)
                    std::memcpy(left + k * ROWS, d + k * s.units + i, ROWS * sizeof(T));
                else
                    std::memcpy(left + k * ROWS, d + k * s.units + i, height * sizeof(T));
            for (int64_t j = 0; j < line; j += 2 * L) {
                const bool two = line - j > L;
                const Tile<T> product = two ? tile<T, ROWS, 2, ROWS> : tile<T, ROWS, 1, ROWS>;
                product({left, 1}, right + j * K, K, {nullptr, 0}, nullptr, 0, scratch);
                for (int64_t r = 0; r < ROWS; ++r)
                    for (int v = 0; v < 1 + two; ++v) {
                        T* sum = total + (i + r) * line + j + v * L;
                        write(sum, read(sum) + read(scratch + (r * 2 + v) * L));
                    }
            }
        }
    }

    // Copy a row of a right factor into its panels, from column j on; the next column.
    int64_t put(int64_t k, int64_t K, int64_t j, const T* source, int64_t count) {
        for (const int64_t end = j + count; j < end;) {
            T* target = right + (j / (2 * L) * K + k) * 2 * L + j % (2 * L);
            const int64_t room = std::min(end - j, 2 * L - j % (2 * L));
            if (room == 2 * L)
                std::memcpy(target, source, 2 * L * sizeof(T));
            else
                std::memcpy(target, source, room * sizeof(T));
            j += room, source += room;
        }
        return j;
    }
};

}  // namespace
