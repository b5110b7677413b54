// Vectors of numbers, as GCC and Clang have them for every processor, and memory for them.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

// of a vector in bytes, and how many rows of two vectors its registers hold
#if defined(__AVX512F__)
constexpr int WIDTH = 64, ROWS = 12;
#elif defined(__AVX__)
constexpr int WIDTH = 32, ROWS = 6;
#elif defined(__aarch64__)
constexpr int WIDTH = 16, ROWS = 9;
#else
constexpr int WIDTH = 16, ROWS = 6;
#endif

template <class T>
struct Vector;
template <>
struct Vector<float> {
    typedef float type __attribute__((vector_size(WIDTH)));
    typedef int32_t integer __attribute__((vector_size(WIDTH)));
    static constexpr int32_t sign = INT32_MIN;
    static constexpr int mantissa = 23, terms = 7;
    static constexpr float far = 10, farthest = 87, ln2_high = 0.693145751953125f, ln2_low = 1.42860677e-6f;
    static constexpr float large = 0x1p60f, scale = 0x1p-66f, smallest = 8.6e-5f;
};
template <>
struct Vector<double> {
    typedef double type __attribute__((vector_size(WIDTH)));
    typedef int64_t integer __attribute__((vector_size(WIDTH)));
    static constexpr int64_t sign = INT64_MIN;
    static constexpr int mantissa = 52, terms = 14;
    static constexpr double far = 20, farthest = 708, ln2_high = 6.93147180369123816490e-01, ln2_low = 1.90821492927058770002e-10;
    static constexpr double large = 0x1p500, scale = 0x1p-520, smallest = 3.7e-9;
};
template <class T>
using Vec = typename Vector<T>::type;
template <class T>
using Int = typename Vector<T>::integer;
template <class T>
constexpr int LANES = WIDTH / sizeof(T);

template <class T>
inline Vec<T> read(const T* p, int64_t lanes = LANES<T>) {
    Vec<T> v{};
    if (lanes == LANES<T>)
        std::memcpy(&v, p, sizeof v);
    else
        std::memcpy(&v, p, lanes * sizeof(T));
    return v;
}

template <class T>
inline void write(T* p, Vec<T> v, int64_t lanes = LANES<T>) {
    if (lanes == LANES<T>)
        std::memcpy(p, &v, sizeof v);
    else
        std::memcpy(p, &v, lanes * sizeof(T));
}

// The sum of the squares in the precision of the numbers, infinite where a square is.
template <class T>
double sum_of_squares(const T* a, int64_t count) {
    constexpr int64_t L = LANES<T>;
    Vec<T> sums[4] = {};
    int64_t i = 0;
    for (; i + 4 * L <= count; i += 4 * L)
        for (int64_t v = 0; v < 4; ++v) {
            const Vec<T> x = read(a + i + v * L);
            sums[v] += x * x;
        }
    T total = 0;
    for (int64_t l = 0; l < L; ++l) total += sums[0][l] + sums[1][l] + sums[2][l] + sums[3][l];
    for (; i < count; ++i) total += a[i] * a[i];
    return total;
}

// Memory that starts on a cache line, with room to read a vector past its end.
template <class T>
class Buffer {
  public:
    explicit Buffer(int64_t size) {
        const size_t bytes = (size * sizeof(T) / 64 + 2) * 64;
        if (posix_memalign(reinterpret_cast<void**>(&data_), 64, bytes)) throw std::bad_alloc();
        std::memset(data_, 0, bytes);
    }
    Buffer(Buffer&& other) noexcept : data_(other.data_) { other.data_ = nullptr; }
    ~Buffer() { std::free(data_); }
    operator T*() const { return data_; }

  private:
    T* data_;
};

}  // namespace
