// Steps of Adam on spheres, in place: each vector of a parameter rotates, and its first moment with it.
//
// A parameter is (outer, length, inner): its vectors run along the middle axis. One that is contiguous is read three times
// while it is in the first cache. Vectors side by side are read row by row, with a sum and a factor for each.
// Single precision adds up few numbers at a time, the sums of those are in double.

#include <algorithm>
#include <new>
#include <vector>

#include "exports.h"
#include "rotations.h"
#include "threads.h"
#include "vectors.h"

namespace {

constexpr int64_t TOGETHER = 1024;  // entries that single precision adds up
constexpr int UNROLLED = 4;         // registers that a sum is in
constexpr int64_t COLUMNS = 1024;   // vectors side by side that one job takes

using F = Vec<float>;

inline double total(const F& sums) {
    double all[LANES<float>];
    for (int i = 0; i < LANES<float>; ++i) all[i] = sums[i];
    for (int step = LANES<float> / 2; step; step /= 2)  // by halves, which do not wait for each other
        for (int i = 0; i < step; ++i) all[i] += all[i + step];
    return all[0];
}

inline F root_of(F v) {
    for (int i = 0; i < LANES<float>; ++i) v[i] = std::sqrt(v[i]);
    return v;
}

// Ask for what a later pass, or the next vector, reads.
inline void soon(const float* p) { __builtin_prefetch(p); }

// A sum in several registers, which do not wait for each other.
struct Sum {
    F part[UNROLLED] = {};
    F& operator[](int k) { return part[k]; }
};

// Call work(i, entries, k) for each vector register, and rest() whenever so many sums belong into double precision.
template <class Work, class Rest>
inline void along(int64_t length, const Work& work, const Rest& rest) {
    constexpr std::integral_constant<int, LANES<float>> whole{};
    int64_t i = 0;
    for (int64_t end = TOGETHER; i + whole <= length; end += TOGETHER) {
        const int64_t stop = std::min(end, length);
        for (; i + UNROLLED * whole <= stop; i += UNROLLED * whole) {
            work(i, whole, 0), work(i + whole, whole, 1);
            work(i + 2 * whole, whole, 2), work(i + 3 * whole, whole, 3);
        }
        for (; i + whole <= stop; i += whole) work(i, whole, 0);
        rest();
    }
    if (i < length) work(i, length - i, 0), rest();
}

// Add up sums in double precision and begin anew.
template <class... Sums>
inline void flush(double* totals, Sums&... sums) {
    ((*totals++ += total((sums[0] + sums[1]) + (sums[2] + sums[3])), sums = Sum()), ...);
}

void turn_row(const Turn& t, float* x, const float* g, float* m, float* v) {
    const int64_t n = t.length;
    const bool near = n <= 8 * TOGETHER;  // what is asked for stays in the cache until it is read
    double s[5] = {};
    Sum a, b, c;
    along(n, [&](int64_t i, auto e, int k) {
        const F X = read(x + i, e);
        a[k] += X * X, b[k] += X * read(g + i, e);
        if (near) soon(m + i);
    }, [&] { flush(s, a, b); });
    const float radial = static_cast<float>(s[1] / (t.radius * t.radius)), b1 = static_cast<float>(t.beta1);
    const float w = static_cast<float>(1 - t.beta1);
    along(n, [&](int64_t i, auto e, int k) {
        const F X = read(x + i, e), G = read(g + i, e) - radial * X, M = b1 * read(m + i, e) + w * G;
        write(m + i, M, e);
        a[k] += G * G, b[k] += M * M, c[k] += X * M;
        if (near) soon(x + n + i), soon(g + n + i);
    }, [&] { flush(s + 2, a, b, c); });
    if (s[3] < SMALL) s[3] = exact_square(n, m, 1, 0, m, 1);
    const Factors f = by_length(t, s[0], s[3], s[4], s[2], *v);
    along(n, [&](int64_t i, auto e, int) {
        const F X = read(x + i, e), M = read(m + i, e);
        write<float>(x + i, X + (f.own * X + f.other * M), e);
        write<float>(m + i, f.keep * M + f.back * X, e);
    }, [] {});
}

void turn_row_by_angle(const Turn& t, float* x, const float* g, float* m, float* v, float* u) {
    const int64_t n = t.length;
    const float w = static_cast<float>(1 - t.beta1), b2 = static_cast<float>(t.beta2);
    const float w2 = static_cast<float>(1 - t.beta2), root = static_cast<float>(1 / t.root);
    const float eps = static_cast<float>(t.eps);
    double s[4] = {};
    Sum a, b;
    along(n, [&](int64_t i, auto e, int k) {
        const F X = read(x + i, e), G = read(g + i, e), old = read(m + i, e);
        const F M = old + w * (G - old), S = b2 * read(v + i, e) + w2 * (G * G);
        const F U = -M / (root_of(S) * root + eps);
        write<float>(m + i, M, e), write<float>(v + i, S, e), write<float>(u + i, U, e);
        a[k] += X * X, b[k] += X * U;
    }, [&] { flush(s, a, b); });
    const double size2 = t.radius > 0 ? t.radius * t.radius : s[0], radial = size2 > 0 ? s[1] / size2 : 0;
    const float r = static_cast<float>(radial);
    along(n, [&](int64_t i, auto e, int k) {
        const F X = read(x + i, e), U = read(u + i, e) - r * X;
        a[k] += U * U, b[k] += X * U;
    }, [&] { flush(s + 2, a, b); });
    if (s[2] < SMALL) s[2] = exact_square(n, u, 1, r, x, 1);
    const Factors f = by_angle(t, s[0], radial, s[3], s[2]);
    along(n, [&](int64_t i, auto e, int) {
        const F X = read(x + i, e);
        write<float>(x + i, X + (f.own * X + f.other * read(u + i, e)), e);
    }, [] {});
}

// Vectors side by side: sums and factors of each, in rows as long as those of the parameter.
class Side {
  public:
    explicit Side(int64_t width) : width_(width), single_(8 * width), double_(5 * width) {}
    float* operator[](int64_t k) { return single_.data() + k * width_; }
    double* totals(int64_t k) { return double_.data() + k * width_; }
    void begin() { std::fill(double_.begin(), double_.end(), 0.0); }

    // Call work(offset) for each row, where it adds to the first rows of this, and add those up in double precision.
    template <class Work>
    void down(int64_t length, int64_t line, int64_t into, int64_t sums, const Work& work) {
        for (int64_t start = 0; start < length; start += ROWS_TOGETHER) {
            std::fill((*this)[0], (*this)[sums], 0.0f);
            for (int64_t r = start; r < std::min(length, start + ROWS_TOGETHER); ++r) work(r * line);
            for (int64_t k = 0; k < sums; ++k)
                for (int64_t j = 0; j < width_; ++j) totals(into + k)[j] += (*this)[k][j];
        }
    }

    void set(int64_t j, const Factors& f) {
        (*this)[4][j] = f.own, (*this)[5][j] = f.other, (*this)[6][j] = f.keep, (*this)[7][j] = f.back;
    }

  private:
    static constexpr int64_t ROWS_TOGETHER = 64;
    int64_t width_;
    std::vector<float> single_;
    std::vector<double> double_;
};

using In = const float* __restrict;
using Out = float* __restrict;

// What each pass does to a row of a parameter; the memory of different arguments does not overlap.

inline void add_products(int64_t width, In x, In g, Out a, Out b) {
    for (int64_t j = 0; j < width; ++j) a[j] += x[j] * x[j], b[j] += x[j] * g[j];
}

inline void add_tangent(int64_t width, In x, In u, In radial, Out a, Out b) {
    for (int64_t j = 0; j < width; ++j) {
        const float tangent = u[j] - radial[j] * x[j];
        a[j] += tangent * tangent, b[j] += x[j] * tangent;
    }
}

inline void move_moment(int64_t width, In x, In g, In radial, float b1, Out m, Out a, Out b, Out c) {
    const float w = 1 - b1;
    for (int64_t j = 0; j < width; ++j) {
        const float tangent = g[j] - radial[j] * x[j], next = b1 * m[j] + w * tangent;
        m[j] = next, a[j] += tangent * tangent, b[j] += next * next, c[j] += x[j] * next;
    }
}

inline void rotate(int64_t width, Out x, Out m, In own, In other, In keep, In back) {
    for (int64_t j = 0; j < width; ++j) {
        const float point = x[j], moment = m[j];
        x[j] = point + (own[j] * point + other[j] * moment);
        m[j] = keep[j] * moment + back[j] * point;
    }
}

inline void turn_towards(int64_t width, Out x, In u, In own, In other) {
    for (int64_t j = 0; j < width; ++j) x[j] += own[j] * x[j] + other[j] * u[j];
}

// Adam's moments of a gradient, and its direction u, up to a factor.
struct Moments {
    explicit Moments(const Turn& t) : w(1 - t.beta1), b2(t.beta2), w2(1 - t.beta2), root(1 / t.root), eps(t.eps) {}
    void move(int64_t width, In g, Out m, Out v, Out u) const {
        for (int64_t j = 0; j < width; ++j) {
            const float first = m[j] + w * (g[j] - m[j]), second = b2 * v[j] + w2 * (g[j] * g[j]);
            m[j] = first, v[j] = second;
            u[j] = -first / (std::sqrt(second) * root + eps);
        }
    }
    const float w, b2, w2, root, eps;
};

void turn_columns(const Turn& t, int64_t width, float* x, const float* g, float* m, float* v, Side& side) {
    const float b1 = static_cast<float>(t.beta1);
    side.begin();
    side.down(t.length, t.inner, 0, 2, [&](int64_t row) { add_products(width, x + row, g + row, side[0], side[1]); });
    for (int64_t j = 0; j < width; ++j) side[3][j] = static_cast<float>(side.totals(1)[j] / (t.radius * t.radius));
    side.down(t.length, t.inner, 2, 3, [&](int64_t row) {
        move_moment(width, x + row, g + row, side[3], b1, m + row, side[0], side[1], side[2]);
    });
    for (int64_t j = 0; j < width; ++j) {
        double& mm = side.totals(3)[j];
        if (mm < SMALL) mm = exact_square(t.length, m + j, t.inner, 0, m + j, t.inner);
        side.set(j, by_length(t, side.totals(0)[j], mm, side.totals(4)[j], side.totals(2)[j], v[j]));
    }
    for (int64_t row = 0; row < t.length * t.inner; row += t.inner)
        rotate(width, x + row, m + row, side[4], side[5], side[6], side[7]);
}

void turn_columns_by_angle(
    const Turn& t, int64_t width, float* x, const float* g, float* m, float* v, float* u, Side& side) {
    const Moments moments(t);
    side.begin();
    side.down(t.length, t.inner, 0, 2, [&](int64_t row) {
        float* direction = u + row / t.inner * width;
        moments.move(width, g + row, m + row, v + row, direction);
        add_products(width, x + row, direction, side[0], side[1]);
    });
    for (int64_t j = 0; j < width; ++j) {
        const double size2 = t.radius > 0 ? t.radius * t.radius : side.totals(0)[j];
        side.totals(1)[j] = size2 > 0 ? side.totals(1)[j] / size2 : 0;
        side[3][j] = static_cast<float>(side.totals(1)[j]);
    }
    side.down(t.length, t.inner, 2, 2, [&](int64_t row) {
        add_tangent(width, x + row, u + row / t.inner * width, side[3], side[0], side[1]);
    });
    for (int64_t j = 0; j < width; ++j) {
        double& tangent = side.totals(2)[j];
        if (tangent < SMALL) tangent = exact_square(t.length, u + j, width, side[3][j], x + j, t.inner);
        side.set(j, by_angle(t, side.totals(0)[j], side.totals(1)[j], side.totals(3)[j], tangent));
    }
    for (int64_t r = 0; r < t.length; ++r)
        turn_towards(width, x + r * t.inner, u + r * width, side[4], side[5]);
}

template <bool BY_ANGLE>
int turn(const Turn& t) {
    const bool rows = t.inner == 1;
    const int64_t blocks = rows ? 1 : (t.inner + COLUMNS - 1) / COLUMNS, each = t.outer * blocks, jobs = t.count * each;
    const int64_t parts = std::max<int64_t>(std::min(t.threads, jobs), 1), widest = std::min(t.inner, COLUMNS);
    try {
        std::vector<Side> sides(rows ? 0 : parts, Side(widest));
        std::vector<float> scratch(BY_ANGLE ? parts * t.length * widest : 0);
        share(parts, [&](int64_t part) {
            float* u = scratch.data() + part * t.length * widest;
            for (int64_t k = jobs * part / parts; k < jobs * (part + 1) / parts; ++k) {
                const int64_t p = k / each, o = k % each / blocks, column = k % blocks * COLUMNS;
                const int64_t at = o * t.length * t.inner + column, width = std::min(COLUMNS, t.inner - column);
                float *x = t.x[p] + at, *m = t.m[p] + at;
                const float* g = t.g[p] + at;
                float* v = t.v[p] + (BY_ANGLE ? at : o * t.inner + column);
                if (rows)
                    BY_ANGLE ? turn_row_by_angle(t, x, g, m, v, u) : turn_row(t, x, g, m, v);
                else
                    BY_ANGLE ? turn_columns_by_angle(t, width, x, g, m, v, u, sides[part])
                             : turn_columns(t, width, x, g, m, v, sides[part]);
            }
        });
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

extern "C" {
EXPORTED int turn_by_length(const Turn* t) { return turn<false>(*t); }
EXPORTED int turn_by_angle(const Turn* t) { return turn<true>(*t); }
}
