/* Runs a MixKABRN model one token after the other, with the same bits on every machine. C99.

   cc -O3 -std=c99 -ffp-contract=off -shared -fPIC -o runtime.so runtime.c -lm [-pthread -DMK_THREADS]

   What is computed is mixkabrn_jax/models/language.py; arithmetic.py has the definition of every function and of the
   order of every sum, which this follows operation by operation. Memory is allocated by mk_load, mk_adapter, mk_new and
   mk_adapt alone.

   Letters: D width of the stream, F outputs of a matrix, G functions on an edge, H heads, K and V widths of a head's
   keys and values, E experts, W tokens of the vocabulary. */

#ifndef MK_KERNELS

#ifdef __wasm__
#include "wasm.h"
#else
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef MK_THREADS
#include <pthread.h>
#endif
#endif

#define LANES 8
#define TILE 64   /* outputs whose sums grow side by side */
#define INPUTS 16 /* of a matrix of codes, whose 2 bits for LANES outputs are 32 bytes */
#define BLOCK 32
#define RANKS 4 /* of low-rank matrices, side by side */

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC optimize("no-trapping-math") /* nobody asks for its flags, and it vectorises what has conditions */
#endif

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL
#endif

#ifdef __GNUC__
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static
#endif

/* --- arithmetic ------------------------------------------------------------------------------------------------ */

static float round_even(float x) { /* to the nearest whole number; |x| < 2^22 */
    return (x + 12582912.0f) - 12582912.0f;
}

static size_t whole(size_t n, size_t unit) { return (n + unit - 1) / unit * unit; }

static float total_of_lanes(float *lane) {
    for (size_t i = 0; i < 4; i++) lane[i] += lane[i + 4];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

static float total(const float *x, size_t n) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j];
    for (size_t j = 0; i + j < n; j++) lane[j] += x[i + j];
    return total_of_lanes(lane);
}

static double exp64(double x) {
    double n = floor(x * 1.4426950408889634 + 0.5);
    double r = x - n * 0.6931471803691238;
    r = r - n * 1.9082149292705877e-10;
    double y = 1.0;
    for (int k = 16; k > 0; k--) y = 1.0 + y * (r / k);
    return ldexp(y, (int)n);
}

static double log64(double x) {
    int e;
    frexp(x, &e);
    double y = (e - 1) * 0.6931471805599453;
    for (int i = 0; i < 8; i++) y = y + (x * exp64(-y) - 1.0);
    return y;
}

static void cos_and_sin(double turns, float *cos_out, float *sin_out) {
    turns = turns - floor(turns);
    double quarter = floor(turns * 4.0 + 0.5);
    double r = (turns - quarter * 0.25) * 6.283185307179586;
    double square = r * r, c = 1.0, s = 1.0;
    for (int k = 16; k > 0; k -= 2) {
        c = 1.0 - c * (square / (k * (k - 1)));
        s = 1.0 - s * (square / (k * (k + 1)));
    }
    s = s * r;
    switch ((int)quarter % 4) {
        case 0: *cos_out = (float)c, *sin_out = (float)s; break;
        case 1: *cos_out = (float)-s, *sin_out = (float)c; break;
        case 2: *cos_out = (float)-c, *sin_out = (float)-s; break;
        default: *cos_out = (float)s, *sin_out = (float)-c;
    }
}

static void rms_norm(float *y, const float *x, const float *scale, size_t n, float epsilon) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] += x[i + j] * x[i + j];
    for (size_t j = 0; i + j < n; j++) lane[j] += x[i + j] * x[i + j];
    float factor = 1.0f / sqrtf(total_of_lanes(lane) / (float)n + epsilon);
    for (i = 0; i < n; i++) y[i] = x[i] * factor;
    if (scale)
        for (i = 0; i < n; i++) y[i] = y[i] * scale[i];
}

/* --- reading a file ---------------------------------------------------------------------------------------------

   JSON is looked into where it lies: a Text is a value of it. Nothing is trusted: every look stays within its text, and
   nesting is bounded. */

typedef struct {
    const char *p, *end;
} Text;

static void skip_space(Text *t) {
    while (t->p < t->end && (*t->p == ' ' || *t->p == '\n' || *t->p == '\t' || *t->p == '\r')) t->p++;
}

static int skip_string(Text *t) { /* behind the closing quote */
    if (t->p >= t->end || *t->p != '"') return 0;
    for (t->p++; t->p < t->end; t->p++) {
        if (*t->p == '\\') t->p++;
        else if (*t->p == '"') return t->p++, 1;
    }
    return 0;
}

static int skip_value(Text *t) {
    int depth = 0;
    do {
        skip_space(t);
        if (t->p >= t->end) return 0;
        char c = *t->p;
        if (c == '"') {
            if (!skip_string(t)) return 0;
        } else if (c == '{' || c == '[') {
            if (++depth > 64) return 0;
            t->p++;
            continue; /* a value or the closing bracket comes next */
        } else if (c == '}' || c == ']') {
            depth--;
            t->p++;
        } else if (c == ',' || c == ':') {
            if (!depth) return 0;
            t->p++;
            continue;
        } else {
            const char *begin = t->p;
            while (t->p < t->end && *t->p && !strchr(",:]} \n\t\r", *t->p)) t->p++;
            if (t->p == begin) return 0;
        }
    } while (depth > 0);
    return depth == 0;
}

/* The next member of an object, whose text goes on behind it; 0 at its end, -1 where it is damaged. */
static int next_member(Text *object, Text *key, Text *value) {
    skip_space(object);
    if (object->p < object->end && (*object->p == '{' || *object->p == ',')) object->p++;
    skip_space(object);
    if (object->p < object->end && *object->p == '}') return 0;
    key->p = object->p + 1;
    if (!skip_string(object)) return -1;
    key->end = object->p - 1;
    skip_space(object);
    if (object->p >= object->end || *object->p++ != ':') return -1;
    skip_space(object);
    value->p = object->p;
    if (!skip_value(object)) return -1;
    value->end = object->p;
    return 1;
}

static int text_is(Text t, const char *word) {
    size_t n = strlen(word);
    return (size_t)(t.end - t.p) == n && !memcmp(t.p, word, n);
}

static int find(Text object, const char *key, Text *value) {
    Text name;
    if (object.p >= object.end || *object.p != '{') return 0;
    while (next_member(&object, &name, value) == 1)
        if (text_is(name, key)) return 1;
    return 0;
}

/* A number of at most 15 digits and 22 powers of ten is one division or product, which rounds once, as it should. */
static int to_number(Text t, double *out) {
    double digits = 0, sign = 1, power = 1;
    int exponent = 0, behind = 0, count = 0, seen = 0;
    if (t.p < t.end && *t.p == '-') sign = -1, t.p++;
    for (; t.p < t.end && ((*t.p >= '0' && *t.p <= '9') || (*t.p == '.' && !behind)); t.p++) {
        if (*t.p == '.') {
            behind = 1;
            continue;
        }
        digits = digits * 10 + (*t.p - '0');
        count += count || *t.p != '0';
        exponent -= behind;
        seen = 1;
    }
    if (t.p < t.end && (*t.p == 'e' || *t.p == 'E')) {
        int e = 0, down = 0;
        t.p++;
        if (t.p < t.end && (*t.p == '-' || *t.p == '+')) down = *t.p++ == '-';
        for (; t.p < t.end && *t.p >= '0' && *t.p <= '9' && e < 10000; t.p++) e = e * 10 + (*t.p - '0');
        exponent += down ? -e : e;
    }
    if (t.p != t.end || !seen || count > 19 || exponent > 22 || exponent < -40) return 0;
    for (int i = 0; i < (exponent < 0 ? -exponent : exponent); i++) power *= 10;
    *out = sign * (exponent < 0 ? digits / power : digits * power);
    return 1;
}

/* A text in JSON without its quotes and escapes, in memory of its own; NULL where it is damaged. */
static char *unescape(Text t, size_t *size) {
    if (t.end - t.p < 2 || *t.p != '"') return NULL;
    char *out = malloc((size_t)(t.end - t.p)), *q = out;
    if (!out) return NULL;
    for (const char *p = t.p + 1; p < t.end - 1; p++) {
        if (*p != '\\') {
            *q++ = *p;
            continue;
        }
        if (++p >= t.end - 1) break;
        if (*p == 'u') { /* of what the runtime reads, nothing has such letters */
            *q++ = '?';
            p += t.end - 1 - p > 4 ? 4 : t.end - 2 - p;
        } else {
            *q++ = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
        }
    }
    *size = (size_t)(q - out);
    return out;
}

enum { MOST_DIMENSIONS = 8, MOST_TENSORS = 4096 };
typedef struct {
    Text name;
    int is_float; /* float32 or bfloat16, else bytes */
    size_t width; /* bytes of a number */
    int num_dimensions;
    size_t shape[MOST_DIMENSIONS], size; /* of numbers */
    const uint8_t *data;
} Tensor;

typedef struct {
    Tensor *tensors;
    size_t num_tensors;
    char *config, *codes;
    Text metadata, model, kinds, sha256;
} File;

static void fail(char *error, const char *what, Text name) {
    size_t n = strlen(what), m = name.p ? (size_t)(name.end - name.p) : 0;
    if (*error) return; /* the first one says most */
    if (m > 120) m = 120;
    memcpy(error, what, n);
    memcpy(error + n, name.p ? name.p : "", m);
    error[n + m] = 0;
}
static const Text NO_NAME = {0, 0};

/* Of an array of whole numbers, how many there are; -1 for another value. */
static int read_numbers(Text t, double *out, int most) {
    int count = 0;
    if (t.end - t.p < 2 || *t.p != '[') return -1;
    for (t.p++;;) {
        skip_space(&t);
        if (t.p + 1 == t.end && *t.p == ']') return count;
        if (count && (t.p >= t.end || *t.p++ != ',')) return -1;
        skip_space(&t);
        Text number = {t.p, t.p};
        while (number.end < t.end && *number.end >= '0' && *number.end <= '9') number.end++;
        if (count == most || !to_number(number, &out[count]) || out[count] > 9e15) return -1;
        t.p = number.end;
        count++;
    }
}

static int read_shape(Text t, size_t *shape, size_t *size) {
    double numbers[MOST_DIMENSIONS];
    int count = read_numbers(t, numbers, MOST_DIMENSIONS);
    *size = 1;
    for (int i = 0; i < count; i++) {
        if (numbers[i] > 1e9 || (numbers[i] > 0 && (double)*size > 1e12 / numbers[i])) return -1;
        shape[i] = (size_t)numbers[i];
        *size *= shape[i];
    }
    return count;
}

static void close_file(File *file) {
    free(file->tensors);
    free(file->config);
    free(file->codes);
    memset(file, 0, sizeof *file);
}

/* Bytes of a number of a type, 0 for a type that is not read. */
static size_t width_of(Text dtype) {
    return text_is(dtype, "\"F32\"") ? 4 : text_is(dtype, "\"BF16\"") ? 2 : text_is(dtype, "\"U8\"") ? 1 : 0;
}

/* The tensors of a file of a form, such as "\"mixkabrn-1\"", and its metadata. */
static int open_tensors(File *file, const uint8_t *content, size_t size, const char *form, char *error) {
    memset(file, 0, sizeof *file);
    uint64_t length = 0;
    if (size < 8) return fail(error, "this is no safetensors file", NO_NAME), 0;
    for (int i = 7; i >= 0; i--) length = length << 8 | content[i];
    if (length > size - 8 || length > 1 << 24) return fail(error, "this is no safetensors file", NO_NAME), 0;
    const char *begin = (const char *)content + 8;
    Text header = {begin, begin + length}, key, value, format;
    const uint8_t *data = content + 8 + length;
    size_t num_bytes = size - 8 - (size_t)length, room = 0;
    skip_space(&header);
    if (header.p >= header.end || *header.p != '{') return fail(error, "its header is no JSON object", NO_NAME), 0;
    for (int more; (more = next_member(&header, &key, &value));) {
        if (more < 0) return fail(error, "its header is damaged", NO_NAME), 0;
        if (text_is(key, "__metadata__")) {
            file->metadata = value;
            continue;
        }
        if (file->num_tensors == MOST_TENSORS) return fail(error, "it has too many tensors", NO_NAME), 0;
        if (file->num_tensors == room) {
            room = room ? 2 * room : 64;
            Tensor *grown = realloc(file->tensors, room * sizeof *grown);
            if (!grown) return fail(error, "there is not enough memory", NO_NAME), 0;
            file->tensors = grown;
        }
        Tensor *tensor = &file->tensors[file->num_tensors++];
        Text dtype, shape, offsets;
        double place[2];
        if (!find(value, "dtype", &dtype) || !find(value, "shape", &shape) || !find(value, "data_offsets", &offsets) ||
            !(tensor->width = width_of(dtype)) ||
            (tensor->num_dimensions = read_shape(shape, tensor->shape, &tensor->size)) < 0 ||
            read_numbers(offsets, place, 2) != 2)
            return fail(error, "damaged in the header: ", key), 0;
        tensor->name = key;
        tensor->is_float = tensor->width > 1;
        size_t bytes = tensor->size * tensor->width;
        if (place[1] > (double)num_bytes || place[1] - place[0] != (double)bytes)
            return fail(error, "it does not lie where the header says: ", key), 0;
        tensor->data = data + (size_t)place[0];
    }
    if (!find(file->metadata, "format", &format) || !text_is(format, form) ||
        !find(file->metadata, "sha256", &file->sha256)) {
        Text wanted = {form + 1, form + strlen(form) - 1};
        return fail(error, "its format is not ", wanted), 0;
    }
    return 1;
}

static int open_file(File *file, const uint8_t *content, size_t size, char *error) {
    Text config, codes;
    size_t n;
    if (!open_tensors(file, content, size, "\"mixkabrn-1\"", error)) return 0;
    if (!find(file->metadata, "config", &config) || !find(file->metadata, "codes", &codes) ||
        !(file->config = unescape(config, &n)))
        return fail(error, "it lacks a model's config", NO_NAME), 0;
    Text whole = {file->config, file->config + n};
    if (!find(whole, "model", &file->model)) return fail(error, "its config has no model", NO_NAME), 0;
    if (!(file->codes = unescape(codes, &n))) return fail(error, "its codes are damaged", NO_NAME), 0;
    file->kinds.p = file->codes, file->kinds.end = file->codes + n;
    return 1;
}

static const Tensor *find_tensor(const File *file, const char *name) {
    for (size_t i = 0; i < file->num_tensors; i++)
        if (text_is(file->tensors[i].name, name)) return &file->tensors[i];
    return NULL;
}

/* --- SHA-256 (FIPS 180-4), by which a file is what was written -------------------------------------------------- */

typedef struct {
    uint32_t h[8];
    uint8_t block[64];
    uint64_t length;
} Sha256;

static void hash_block(Sha256 *s) {
    static const uint32_t K[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98,
        0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786,
        0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8,
        0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13,
        0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819,
        0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a,
        0x5b9cca4f, 0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
#define TURN(x, n) ((x) >> (n) | (x) << (32 - (n)))
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] + (TURN(w[i - 15], 7) ^ TURN(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (TURN(w[i - 2], 17) ^ TURN(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, s->h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t first = v[7] + (TURN(e, 6) ^ TURN(e, 11) ^ TURN(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + K[i] + w[i];
        uint32_t second = (TURN(a, 2) ^ TURN(a, 13) ^ TURN(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += first, v[0] = first + second;
    }
    for (int i = 0; i < 8; i++) s->h[i] += v[i];
#undef TURN
}

static void hash(Sha256 *s, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    while (n) {
        size_t at = s->length % 64, count = 64 - at < n ? 64 - at : n;
        memcpy(s->block + at, p, count);
        s->length += count, p += count, n -= count;
        if (s->length % 64 == 0) hash_block(s);
    }
}

static void hash_number(Sha256 *s, size_t n) { /* in decimal */
    char digits[24];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + n % 10);
    while (n /= 10);
    hash(s, digits + at, sizeof digits - at);
}

static int comes_before(Text a, Text b) {
    size_t n = (size_t)(a.end - a.p), m = (size_t)(b.end - b.p);
    int order = memcmp(a.p, b.p, n < m ? n : m);
    return order < 0 || (order == 0 && n < m);
}

/* Whether the tensors are those that were written: for each, in the order of names, "name dtype (shape)", a newline, and
   its bytes. Sorts them. */
static int has_hash(File *file, Text expected) {
    Sha256 s = {{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, {0}, 0};
    for (size_t i = 0; i < file->num_tensors; i++) {
        size_t first = i;
        for (size_t j = i + 1; j < file->num_tensors; j++)
            if (comes_before(file->tensors[j].name, file->tensors[first].name)) first = j;
        Tensor held = file->tensors[first];
        file->tensors[first] = file->tensors[i], file->tensors[i] = held;
        hash(&s, held.name.p, (size_t)(held.name.end - held.name.p));
        const char *type = held.width == 4 ? " float32 (" : held.width == 2 ? " bfloat16 (" : " uint8 (";
        hash(&s, type, strlen(type));
        for (int d = 0; d < held.num_dimensions; d++) {
            if (d) hash(&s, ", ", 2);
            hash_number(&s, held.shape[d]);
        }
        hash(&s, held.num_dimensions == 1 ? ",)\n" : ")\n", held.num_dimensions == 1 ? 3 : 2);
        hash(&s, held.data, held.size * held.width);
    }
    uint64_t bits = 8 * s.length;
    uint8_t length[8];
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(bits >> (56 - 8 * i));
    hash(&s, "\x80", 1);
    while (s.length % 64 != 56) hash(&s, "", 1);
    hash(&s, length, 8);
    if (expected.end - expected.p != 66) return 0;
    for (int i = 0; i < 64; i++)
        if (expected.p[1 + i] != "0123456789abcdef"[s.h[i / 8] >> (28 - 4 * (i % 8)) & 15]) return 0;
    return 1;
}

static float read_float(const uint8_t *p) {
    uint32_t bits = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

/* --- a model in memory ------------------------------------------------------------------------------------------ */

enum { FLOATS, CODES2, CODES8 };
enum { TERNARY, BINARY, INT4, INT8 };

typedef struct { /* an array of the file, whose numbers are asked for one by one */
    const uint8_t *values; /* numbers, or packed codes */
    const uint8_t *scales;
    size_t width; /* bytes of a number */
    int is_coded, kind, num_dimensions;
    size_t shape[MOST_DIMENSIONS], size, num_scales; /* scales of each matrix */
    size_t per_byte;
    int8_t codes_of[256][8]; /* each byte */
} Source;

typedef struct { /* all that has been allocated for something */
    void **taken;
    size_t num_taken, room;
} Memory;

typedef struct { /* a matrix [D, F in whole lanes]: TILE outputs of all rows, then the next TILE of them */
    int kind;
    size_t rows, wide;
    void *data;
} Tiles;

typedef struct {
    size_t d_in, d_out, number;
    Tiles plain;    /* of a matrix whose input is not rounded: floats, or codes of 8 bits */
    uint8_t *codes; /* [F / LANES, D / INPUTS, BLOCK], NULL without */
    float scale;    /* of codes, 1 for floats */
    float largest;  /* code of the input */
    int normalize;
} Linear;

enum { BSPLINE, CHEBYSHEV, FOURIER, RBF, RATIONAL };
enum { FADE, CLAMP, GO_ON };

typedef struct {
    int basis, extrapolation, num_intervals, degree, num_basis;
    double span;
    float low, high;
    float bump[4];       /* factors of the terms of a bump */
    float end_slope[64]; /* of the functions, at the grid's first point */
} Grid;

typedef struct {
    Linear base;
    Tiles spline;   /* [G D, F] */
    size_t number;  /* of the spline's matrix */
    float *scales;  /* [G], NULL for FLOATS */
    float *knots;   /* [M, D], NULL where they are equally spaced */
    float *numerator, *denominator; /* [6, D] and [4, D] */
    int num_powers, num_lower;
} KanLayer;

enum { KAN, MLP, SWIGLU, GEGLU };

typedef struct {
    KanLayer layers[2];
    Linear up, gate, down;
} FeedForward;

typedef struct {
    float *mixer_norm, *ffn_norm;
    Linear query, key, value, gate, out;
    Linear decay_gate;
    double *decay; /* [H] */
    int routed;
    Linear router;
    float *bias;      /* [E] */
    FeedForward *ffn; /* one, or experts and then shared ones */
} Block;

enum { LONGEST_NAME = 160, MOST_STACKS = 32 };
enum { NONE, EMBEDDING, HEAD, FIRST }; /* numbers of matrices: of routers, of the tables, of the first other one */

typedef struct { /* the matrices of one name, for each layer or each expert of each layer one */
    char name[LONGEST_NAME];
    size_t first, rows, columns, shape[MOST_DIMENSIONS]; /* the first one's number; shape: in front of its own two */
    int num_leading;
    size_t groups; /* of rows: functions of splines, else 1 */
} Stack;

typedef struct {
    size_t d_model, num_layers, num_heads, key_width, value_width, vocab_size, num_experts, experts_per_token;
    size_t num_shared, num_groups, groups_per_token, num_earlier, width; /* the widest hidden layer */
    int is_retention, ffn, sub_norm, normalizes_input, is_deepnorm, is_sigmoid, normalizes_gates, halves, is_gated;
    int divides_rows;
    float epsilon, gate_scale, embedding_scale, alpha, largest, down_largest;
    Grid grid;
    double *turns; /* [K / 2] a position */
    Block *blocks;
    float *final_norm, *convolution;
    Tiles embedding, head;                  /* [D, W] */
    float *embedding_scales, *head_scales; /* [W], NULL for FLOATS */
    const struct Kernels *kernels;
    Memory memory;
    Stack stacks[MOST_STACKS]; /* of the matrices that may have a low-rank one beside them */
    size_t num_stacks, num_matrices;
    char sha256[66]; /* of its file, in quotes */
} Model;

/* --- the inner loops, once for each kind of processor ------------------------------------------------------------

   All give the same bits: every output is a sum of its own, from the first input to the last, and nothing is fused. */

/* y [8 groups] += sum over i of (values[i] scale) w[rows[i]]; from row to row of w are `stride` numbers */
typedef void Sums(float *y, size_t groups, const void *w, size_t stride, const uint32_t *rows, const float *values,
                  size_t count, float scale);

typedef struct Kernels {
    const char *name;
    /* y [8 groups] = ((codes + 1) x - sum) factor, of codes [groups, blocks, BLOCK] and x [blocks, INPUTS] */
    void (*dots)(float *y, size_t groups, const uint8_t *w, const int8_t *x, size_t blocks, int32_t sum, float factor);
    Sums *sums[3]; /* of FLOATS, CODES2 and CODES8; groups fill a TILE at most */
    /* z [RANKS] = x [n] A, each as total; the ranks of A are so far apart */
    void (*totals)(float *z, const float *x, size_t n, const float *A, size_t stride);
    /* y [8 groups] += z [RANKS] B [groups, RANKS, 8], rank after rank */
    void (*ranks)(float *y, size_t groups, const float *z, const float *B);
    /* codes [n] of x, and their sum; returns their scale */
    float (*round)(int8_t *codes, const float *x, size_t n, float largest, int32_t *sum);
    void (*exps)(float *y, const float *x, size_t n); /* n in whole lanes */
    void (*bumps)(const Grid *g, float *out, float *held, const float *x, size_t n); /* out [G, n] */
    /* memory [n] = kept memory + key value; y [n] += query memory */
    void (*recall)(float *y, float *memory, const float *value, float kept, float key, float query, size_t n);
} Kernels;

static float CODES_OF_BYTE[256][4]; /* of 2 bits each, as -1, 0, 1 */

/* Vectors of 128 bits: ADD_LOW and ADD_HIGH add the products of 8 bytes, ADD_FOURS the sums of four of them. */
#if defined(__wasm_simd128__) && !defined(MK_PLAIN)
#define MK_128
#include <wasm_simd128.h>
typedef v128_t Int32x4, Int16x8, Int8x16;
#define SPLAT32 wasm_i32x4_splat
#define SPLAT16 wasm_i16x8_splat
#define SPLAT_BYTES wasm_i32x4_splat
#define CODES(w, shift) wasm_v128_and(wasm_u8x16_shr(wasm_v128_load(w), shift), wasm_i8x16_splat(3))
#define ADD_LOW(sum, a, b) wasm_i16x8_add(sum, wasm_i16x8_extmul_low_i8x16(a, b))
#define ADD_HIGH(sum, a, b) wasm_i16x8_add(sum, wasm_i16x8_extmul_high_i8x16(a, b))
#define STORE wasm_v128_store
INLINE v128_t ADD_FOURS(v128_t sum, v128_t low, v128_t high) {
    v128_t a = wasm_i32x4_extadd_pairwise_i16x8(low), b = wasm_i32x4_extadd_pairwise_i16x8(high);
    sum = wasm_i32x4_add(sum, wasm_i32x4_shuffle(a, b, 0, 2, 4, 6));
    return wasm_i32x4_add(sum, wasm_i32x4_shuffle(a, b, 1, 3, 5, 7));
}
#elif defined(__ARM_NEON) && !defined(__ARM_BIG_ENDIAN) && !defined(MK_PLAIN)
#define MK_128
#include <arm_neon.h>
typedef int32x4_t Int32x4;
typedef int16x8_t Int16x8;
typedef int8x16_t Int8x16;
#define SPLAT32 vdupq_n_s32
#define SPLAT16 vdupq_n_s16
#define SPLAT_BYTES(four) vreinterpretq_s8_s32(vdupq_n_s32(four))
#define CODES(w, shift) \
    vreinterpretq_s8_u8(vandq_u8(vshlq_u8(vld1q_u8(w), vdupq_n_s8((int8_t)-(shift))), vdupq_n_u8(3)))
#define ADD_LOW(sum, a, b) vmlal_s8(sum, vget_low_s8(a), vget_low_s8(b))
#define ADD_HIGH(sum, a, b) vmlal_s8(sum, vget_high_s8(a), vget_high_s8(b))
#define STORE vst1q_s32
INLINE int32x4_t ADD_FOURS(int32x4_t sum, int16x8_t low, int16x8_t high) {
    int32x4_t a = vpaddlq_s16(low), b = vpaddlq_s16(high);
    int32x2_t first = vpadd_s32(vget_low_s32(a), vget_high_s32(a));
    int32x2_t second = vpadd_s32(vget_low_s32(b), vget_high_s32(b));
    return vaddq_s32(sum, vcombine_s32(first, second));
}
#endif

#define MK_KERNELS
#define KERNELS(of)                                                                                   \
    {                                                                                                 \
        #of, of##_dots, {of##_sums, of##_sums2, of##_sums8}, of##_totals, of##_ranks, of##_round,     \
            of##_exps, of##_bumps, of##_recall                                                        \
    }
#define NAME(name) plain_##name
#define TARGET
#include "runtime.c"
#undef NAME
#undef TARGET
static const Kernels PLAIN = KERNELS(plain);

#if (defined(__x86_64__) || defined(__i386__)) && (defined(__GNUC__) || defined(__clang__)) && !defined(MK_PLAIN)
#define MK_X86
#include <immintrin.h>
#define NAME(name) ssse3_##name
#define TARGET __attribute__((target("ssse3")))
#define MK_SSSE3
#include "runtime.c"
#undef MK_SSSE3
#undef NAME
#undef TARGET
#define NAME(name) avx2_##name
#define TARGET __attribute__((target("avx2")))
#define MK_AVX2
#include "runtime.c"
#undef MK_AVX2
#undef NAME
#undef TARGET
static const Kernels SSSE3 = KERNELS(ssse3), AVX2 = KERNELS(avx2);
#endif
#undef MK_KERNELS

/* --- a model out of its file -------------------------------------------------------------------------------------- */

static void *take(Memory *m, size_t size) {
    if (m->num_taken == m->room) {
        size_t room = m->room ? 2 * m->room : 64;
        void **grown = realloc(m->taken, room * sizeof *grown);
        if (!grown) return NULL;
        m->taken = grown, m->room = room;
    }
    void *p = calloc(size ? size + 64 : 64, 1);
    if (p) m->taken[m->num_taken++] = p;
    return p;
}

static void give_back(Memory *m) {
    for (size_t i = 0; i < m->num_taken; i++) free(m->taken[i]);
    free(m->taken);
}

static void join(char *out, const char *a, const char *b, const char *c) {
    out[0] = 0;
    strcat(strcat(strcat(out, a), b), c);
}

static int find_source(const File *file, const char *name, Source *s) {
    Text entry, kind, shape;
    memset(s, 0, sizeof *s);
    if (!find(file->kinds, name, &entry)) {
        const Tensor *tensor = find_tensor(file, name);
        if (!tensor || !tensor->is_float) return 0;
        s->values = tensor->data, s->size = tensor->size, s->num_dimensions = tensor->num_dimensions;
        s->width = tensor->width;
        memcpy(s->shape, tensor->shape, sizeof s->shape);
        return 1;
    }
    static const char *const KINDS[] = {"\"ternary\"", "\"binary\"", "\"int4\"", "\"int8\""};
    static const size_t PER_BYTE[] = {5, 8, 2, 1};
    char full[LONGEST_NAME + 16];
    join(full, name, ".codes", "");
    const Tensor *codes = find_tensor(file, full);
    join(full, name, ".scales", "");
    const Tensor *scales = find_tensor(file, full);
    if (!codes || !scales || codes->is_float || scales->width != 4 || !find(entry, "kind", &kind) ||
        !find(entry, "shape", &shape) || (s->num_dimensions = read_shape(shape, s->shape, &s->size)) < 0)
        return 0;
    for (s->kind = 0; s->kind < 4 && !text_is(kind, KINDS[s->kind]);) s->kind++;
    if (s->kind == 4 || codes->size != (s->size + PER_BYTE[s->kind] - 1) / PER_BYTE[s->kind]) return 0;
    s->per_byte = PER_BYTE[s->kind];
    for (int byte = 0; byte < 256; byte++)
        for (int i = 0, left = byte; i < (int)s->per_byte; i++) {
            static const int BASES[] = {3, 2, 16, 256}, SMALLEST[] = {-1, -1, -8, -128};
            s->codes_of[byte][i] = (int8_t)(left % BASES[s->kind] * (s->kind == BINARY ? 2 : 1) + SMALLEST[s->kind]);
            left /= BASES[s->kind];
        }
    s->is_coded = 1, s->values = codes->data, s->scales = scales->data;
    size_t matrices = 1;
    for (int i = 0; i < s->num_dimensions - 2; i++) matrices *= s->shape[i];
    if (!matrices || scales->size % matrices) return 0;
    s->num_scales = scales->size / matrices;
    return 1;
}

static void read_codes(const Source *s, size_t first, size_t count, int8_t *out) {
    size_t byte = first / s->per_byte, at = first % s->per_byte;
    for (size_t i = 0; i < count; i++) {
        out[i] = s->codes_of[s->values[byte]][at++];
        if (at == s->per_byte) at = 0, byte++;
    }
}
static float number_at(const Source *s, size_t i) {
    const uint8_t *p = s->values + s->width * i, upper_half[4] = {0, 0, p[0], p[1]};
    return read_float(s->width == 2 ? upper_half : p);
}
static float scale_at(const Source *s, size_t i) { return read_float(s->scales + 4 * i); }

/* Vectors of floats, [.., n]: part number `index`; with lanes to spare if asked for rows of d_out. */
static float *read_rows(Model *m, const File *f, const char *name, size_t index, size_t rows, size_t d_out,
                        char *error) {
    Source s;
    size_t wide = whole(d_out, LANES);
    Text named = {name, name + strlen(name)};
    if (!find_source(f, name, &s) || s.is_coded || s.size < (index + 1) * rows * d_out || s.size % (rows * d_out))
        return fail(error, "it is missing or of another size: ", named), NULL;
    float *out = take(&m->memory, rows * wide * sizeof *out);
    if (!out) return fail(error, "there is not enough memory", NO_NAME), NULL;
    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < d_out; i++) {
            float value = number_at(&s, (index * rows + r) * d_out + i);
            if (!(value - value == 0.0f)) return fail(error, "it has numbers that are not finite: ", named), NULL;
            out[r * wide + i] = value;
        }
    return out;
}

static size_t place(const Tiles *t, size_t row, size_t output) {
    size_t first = output / TILE * TILE, stride = t->wide - first < TILE ? t->wide - first : TILE;
    return first * t->rows + row * stride + output - first;
}

static int make_tiles(Memory *memory, Tiles *t, int kind, size_t rows, size_t d_out, char *error) {
    static const size_t BITS[] = {32, 2, 8};
    t->kind = kind, t->rows = rows, t->wide = whole(d_out, LANES);
    t->data = take(memory, rows * t->wide * BITS[kind] / 8);
    return t->data ? 1 : (fail(error, "there is not enough memory", NO_NAME), 0);
}

static void put_codes(Tiles *t, const Source *s, size_t first, size_t d_out) {
    int8_t codes[TILE];
    for (size_t r = 0; r < t->rows; r++)
        for (size_t o = 0, count; o < d_out; o += count) {
            size_t at = place(t, r, o);
            count = d_out - o < TILE ? d_out - o : TILE;
            read_codes(s, first + r * d_out + o, count, codes);
            if (t->kind == CODES8) memcpy((int8_t *)t->data + at, codes, count);
            for (size_t i = 0; i < count && t->kind == CODES2; i++)
                ((uint8_t *)t->data)[(at + i) / 4] |= (uint8_t)((codes[i] + 1) << 2 * (i % 4));
        }
}

static int put_floats(Tiles *t, const Source *s, size_t first, size_t d_out, Text named, char *error) {
    for (size_t r = 0; r < t->rows; r++)
        for (size_t o = 0; o < d_out; o++) {
            float value = number_at(s, first + r * d_out + o);
            if (!(value - value == 0.0f)) return fail(error, "it has numbers that are not finite: ", named), 0;
            ((float *)t->data)[place(t, r, o)] = value;
        }
    return 1;
}

/* The number of matrix `index` of a stack, which the model gets to know with its first. */
static size_t number_of(Model *m, const char *name, const Source *s, size_t index, size_t groups) {
    Stack *stack = m->stacks;
    while (stack < m->stacks + m->num_stacks && strcmp(stack->name, name)) stack++;
    if (stack == m->stacks + m->num_stacks) {
        if (m->num_stacks == MOST_STACKS) return NONE;
        int n = s->num_dimensions;
        join(stack->name, name, "", "");
        memcpy(stack->shape, s->shape, sizeof stack->shape);
        stack->num_leading = n - 2, stack->rows = s->shape[n - 2], stack->columns = s->shape[n - 1];
        stack->first = m->num_matrices, stack->groups = groups;
        m->num_matrices += s->size / (stack->rows * stack->columns);
        m->num_stacks++;
    }
    return stack->first + index;
}

static int read_linear(Model *m, const File *f, const char *prefix, const char *suffix, size_t index, size_t d_in,
                       size_t d_out, float largest, int normalize, Linear *out, char *error) {
    char name[LONGEST_NAME];
    Source s;
    join(name, prefix, suffix, "");
    Text named = {name, name + strlen(name)};
    int n;
    if (!find_source(f, name, &s) || (n = s.num_dimensions) < 2 || s.shape[n - 2] != d_in || s.shape[n - 1] != d_out ||
        s.size < (index + 1) * d_in * d_out)
        return fail(error, "it is missing or of another size: ", named), 0;
    out->d_in = d_in, out->d_out = d_out;
    out->normalize = normalize, out->largest = largest;
    if (largest) out->number = number_of(m, name, &s, index, 1);
    size_t first = index * d_in * d_out, blocks = whole(d_in, INPUTS) / INPUTS;
    out->scale = 1.0f;
    if (!s.is_coded)
        return make_tiles(&m->memory, &out->plain, FLOATS, d_in, d_out, error) &&
               put_floats(&out->plain, &s, first, d_out, named, error);
    if (s.kind == INT4 || s.num_scales != 1 || !largest) /* 0: only floats will do */
        return fail(error, "its codes are of another kind: ", named), 0;
    out->scale = scale_at(&s, index);
    if (!(out->scale - out->scale == 0.0f)) return fail(error, "its scale is not finite: ", named), 0;
    if (s.kind == INT8) {
        if (!make_tiles(&m->memory, &out->plain, CODES8, d_in, d_out, error)) return 0;
        return put_codes(&out->plain, &s, first, d_out), 1;
    }
    uint8_t *codes = out->codes = take(&m->memory, whole(d_out, LANES) / LANES * blocks * BLOCK);
    if (!codes) return fail(error, "there is not enough memory", NO_NAME), 0;
    /* Of a block, byte 4 o + i has input 4 r + i of output o in bits 2 r and 2 r + 1. */
    for (size_t d = 0; d < d_in; d++)
        for (size_t o = 0, count; o < d_out; o += count) {
            int8_t row[TILE];
            count = d_out - o < TILE ? d_out - o : TILE;
            read_codes(&s, first + d * d_out + o, count, row);
            for (size_t i = 0; i < count; i++) {
                size_t block = (o + i) / LANES * blocks + d / INPUTS, byte = i % LANES * 4 + d % 4;
                codes[block * BLOCK + byte] |= (uint8_t)((row[i] + 1) << d % INPUTS / 4 * 2);
            }
        }
    return 1;
}

static int read_kan(Model *m, const File *f, const char *prefix, const char *which, size_t index, size_t d_in,
                    size_t d_out, float largest, KanLayer *out, char *error) {
    char name[LONGEST_NAME], layer[LONGEST_NAME];
    Source s;
    join(layer, prefix, which, "");
    if (!read_linear(m, f, layer, "base", index, d_in, d_out, largest, 0, &out->base, error)) return 0;
    size_t rows = (size_t)m->grid.num_basis * d_in, first = index * rows * d_out;
    join(name, layer, "spline", "");
    Text named = {name, name + strlen(name)};
    int n;
    if (!find_source(f, name, &s) || (n = s.num_dimensions) < 2 || s.shape[n - 2] != rows || s.shape[n - 1] != d_out ||
        s.size < (index + 1) * rows * d_out)
        return fail(error, "it is missing or of another size: ", named), 0;
    out->number = number_of(m, name, &s, index, (size_t)m->grid.num_basis);
    int kind = !s.is_coded ? FLOATS : s.kind <= BINARY ? CODES2 : CODES8;
    if (!make_tiles(&m->memory, &out->spline, kind, rows, d_out, error)) return 0;
    if (!s.is_coded) {
        if (!put_floats(&out->spline, &s, first, d_out, named, error)) return 0;
    } else {
        if (s.num_scales != (size_t)m->grid.num_basis) return fail(error, "its scales are too few: ", named), 0;
        out->scales = take(&m->memory, s.num_scales * sizeof(float));
        if (!out->scales) return fail(error, "there is not enough memory", NO_NAME), 0;
        for (size_t g = 0; g < s.num_scales; g++) {
            out->scales[g] = scale_at(&s, index * s.num_scales + g);
            if (!(out->scales[g] - out->scales[g] == 0.0f))
                return fail(error, "its scale is not finite: ", named), 0;
        }
        put_codes(&out->spline, &s, first, d_out);
    }
    if (m->grid.basis == RATIONAL) {
        for (int lower = 0; lower < 2; lower++) {
            join(name, layer, lower ? "features.denominator_PG" : "features.numerator_PG", "");
            if (!find_source(f, name, &s) || s.is_coded || s.num_dimensions < 2)
                return fail(error, "its rational functions are missing", NO_NAME), 0;
            size_t powers = s.shape[s.num_dimensions - 1], groups = s.shape[s.num_dimensions - 2];
            float *table = read_rows(m, f, name, index, groups, powers, error), *out_DG;
            if (!table || !(out_DG = take(&m->memory, powers * d_in * sizeof(float)))) return 0;
            for (size_t p = 0; p < powers; p++)
                for (size_t d = 0; d < d_in; d++)
                    out_DG[p * d_in + d] = table[d * groups / d_in * whole(powers, LANES) + p];
            if (lower) out->denominator = out_DG, out->num_lower = (int)powers;
            else out->numerator = out_DG, out->num_powers = (int)powers;
        }
    }
    join(name, layer, "features.knots_DM", "");
    if (m->grid.basis == BSPLINE && find_source(f, name, &s)) {
        size_t knots = (size_t)m->grid.num_basis + (size_t)m->grid.degree + 1;
        float *table = read_rows(m, f, name, index, d_in, knots, error);
        if (!table || !(out->knots = take(&m->memory, knots * d_in * sizeof(float)))) return 0;
        for (size_t k = 0; k < knots; k++)
            for (size_t d = 0; d < d_in; d++) out->knots[k * d_in + d] = table[d * whole(knots, LANES) + k];
    }
    return 1;
}

static int read_feed_forward(Model *m, const File *f, const char *prefix, size_t index, size_t width, FeedForward *out,
                             char *error) {
    size_t D = m->d_model;
    if (width > m->width) m->width = width;
    if (m->ffn == KAN)
        return read_kan(m, f, prefix, "up.", index, D, width, m->largest, &out->layers[0], error) &&
               read_kan(m, f, prefix, "down.", index, width, D, m->down_largest, &out->layers[1], error);
    int normal = m->normalizes_input;
    if (m->ffn != MLP && !read_linear(m, f, prefix, "gate.kernel", index, D, width, m->largest, normal, &out->gate, error))
        return 0;
    return read_linear(m, f, prefix, "up.kernel", index, D, width, m->largest, normal, &out->up, error) &&
           read_linear(m, f, prefix, "down.kernel", index, width, D, m->down_largest, normal || m->sub_norm, &out->down,
                       error);
}

static double member(Text object, const char *key, char *error) {
    Text value, named = {key, key + strlen(key)};
    double number = 0;
    if (!find(object, key, &value) || !to_number(value, &number))
        fail(error, "its config has no number for ", named);
    return number;
}

static size_t count_of(Text object, const char *key, size_t least, size_t most, char *error) {
    double number = member(object, key, error);
    Text named = {key, key + strlen(key)};
    if (!(number >= (double)least && number <= (double)most) || number != floor(number)) {
        fail(error, "its config has a number out of bounds for ", named);
        return least;
    }
    return (size_t)number;
}

static int word(Text object, const char *key, const char *const *words, char *error) { /* which of the words */
    Text value, named = {key, key + strlen(key)};
    if (find(object, key, &value) && value.end - value.p >= 2) {
        value.p++, value.end--;
        for (int i = 0; words[i]; i++)
            if (text_is(value, words[i])) return i;
    }
    fail(error, "its config has an unknown kind of ", named);
    return 0;
}

static int flag(Text object, const char *key, char *error) {
    Text value, named = {key, key + strlen(key)};
    if (!find(object, key, &value)) fail(error, "its config lacks ", named);
    else return text_is(value, "true");
    return 0;
}

static Text section(Text object, const char *key, char *error) {
    Text value, named = {key, key + strlen(key)};
    if (find(object, key, &value)) return value;
    fail(error, "its config lacks ", named);
    return object;
}

static double choose(double n, int k) { /* binomial coefficient */
    double c = 1;
    for (int i = 0; i < k; i++) c = c * (n - i) / (i + 1);
    return c;
}

static double power(double base, int exponent) {
    double y = 1;
    while (exponent-- > 0) y *= base;
    return y;
}

static double slope_bump(double u, int degree) {
    if (degree == 1) return u >= -0.5 && u < 0.5;
    double sum = 0, factorial = 1;
    for (int j = 0; j < degree; j++) {
        double height = (double)degree / 2 - j - fabs(u);
        if (height > 0) sum += (j % 2 ? -1 : 1) * choose(degree, j) * power(height, degree - 1);
    }
    for (int i = 2; i < degree; i++) factorial *= i;
    return sum / factorial;
}

static void read_grid(Grid *g, Text kan, char *error) {
    static const char *const BASES[] = {"bspline", "chebyshev", "fourier", "rbf", "rational", 0};
    static const char *const EXTRAPOLATIONS[] = {"fade", "clamp", "linear", 0};
    Text grid = section(kan, "grid", error);
    g->basis = word(kan, "basis", BASES, error);
    g->extrapolation = word(grid, "extrapolation", EXTRAPOLATIONS, error);
    g->num_intervals = (int)count_of(grid, "num_intervals", 1, 50, error);
    g->degree = (int)count_of(grid, "degree", 0, 5, error);
    double low = member(grid, "low", error), high = member(grid, "high", error), factorial = 1;
    g->low = (float)low, g->high = (float)high, g->span = high - low;
    g->num_basis = g->basis == RATIONAL ? 1 : g->num_intervals + g->degree;
    if (!(g->span > 0)) fail(error, "its config has an empty grid", NO_NAME);
    for (int i = 2; i <= g->degree; i++) factorial *= i;
    for (int j = 0; j <= g->degree / 2; j++)
        g->bump[j] = (float)((j % 2 ? -1 : 1) * choose(g->degree + 1, j) / factorial);
    for (int i = 0; i < g->num_basis && g->degree > 0; i++) {
        double centre = i - (g->degree - 1) / 2.0;
        g->end_slope[i] = (float)(slope_bump(0.5 - centre, g->degree) - slope_bump(-0.5 - centre, g->degree));
    }
}

static int read_table(Model *m, const File *f, const char *name, Tiles *table, float **scales, char *error) {
    Source s;
    Text named = {name, name + strlen(name)};
    size_t W = m->vocab_size, D = m->d_model;
    if (!find_source(f, name, &s) || s.num_dimensions != 2 || s.shape[0] != W || s.shape[1] != D ||
        (s.is_coded && (s.kind < INT4 || s.num_scales != W)))
        return fail(error, "it is missing or of another size: ", named), 0;
    number_of(m, name, &s, 0, 1);
    if (!make_tiles(&m->memory, table, s.is_coded ? CODES8 : FLOATS, D, W, error)) return 0;
    *scales = s.is_coded ? take(&m->memory, table->wide * sizeof(float)) : NULL;
    if (s.is_coded && !*scales) return fail(error, "there is not enough memory", NO_NAME), 0;
    int8_t codes[TILE];
    for (size_t w = 0; w < W; w++) {
        for (size_t d = 0; d < D; d++) {
            size_t at = place(table, d, w);
            if (s.is_coded && d % TILE == 0) read_codes(&s, w * D + d, D - d < TILE ? D - d : TILE, codes);
            if (s.is_coded) ((int8_t *)table->data)[at] = codes[d % TILE];
            else ((float *)table->data)[at] = number_at(&s, w * D + d);
        }
        if (s.is_coded) (*scales)[w] = scale_at(&s, w);
    }
    return 1;
}

static int read_decays(Model *m, const File *f, const char *prefix, size_t layer, Text retention, Block *block,
                       char *error) {
    static const char *const DECAYS[] = {"paper", "lm", "learned", "gated", 0};
    const double ln2 = 0.6931471805599453;
    size_t H = m->num_heads;
    int kind = word(retention, "decay", DECAYS, error);
    char name[LONGEST_NAME];
    if (kind == 3) {
        m->is_gated = 1;
        return read_linear(m, f, prefix, "mixer.decay_gate", layer, m->d_model, H, 0, m->normalizes_input,
                           &block->decay_gate, error);
    }
    if (!(block->decay = take(&m->memory, H * sizeof(double))))
        return fail(error, "there is not enough memory", NO_NAME), 0;
    double first = member(retention, "first_decay_exponent", error);
    float *logit = NULL;
    join(name, prefix, "mixer.decay_logit_H", "");
    if (kind == 2 && !(logit = read_rows(m, f, name, layer, 1, H, error))) return 0;
    for (size_t h = 0; h < H; h++) {
        if (kind == 2) block->decay[h] = 1.0 / (1.0 + exp64(-(double)logit[h]));
        else if (kind == 1) block->decay[h] = 1.0 - exp64(-(5.0 + 4.0 * h / (H > 1 ? H - 1 : 1)) * ln2);
        else block->decay[h] = 1.0 - exp64(-(first + h) * ln2);
    }
    return 1;
}

static int read_block(Model *m, const File *f, const char *prefix, size_t layer, int routed, Text config, size_t width,
                      Block *block, char *error) {
    char name[LONGEST_NAME];
    Source s;
    size_t D = m->d_model, keys = m->num_heads * m->key_width, values = m->num_heads * m->value_width;
    block->routed = routed;
    for (int second = 0; second < 2; second++) {
        join(name, prefix, second ? "ffn_norm.scale_D" : "mixer_norm.scale_D", "");
        if (!find_source(f, name, &s)) continue;
        float *scale = read_rows(m, f, name, layer, 1, D, error);
        if (!scale) return 0;
        *(second ? &block->ffn_norm : &block->mixer_norm) = scale;
    }
    int normal = m->normalizes_input, sub_norm = m->sub_norm && !m->is_retention;
    if (!read_linear(m, f, prefix, "mixer.query.kernel", layer, D, keys, m->largest, normal, &block->query, error) ||
        !read_linear(m, f, prefix, "mixer.key.kernel", layer, D, keys, m->largest, normal, &block->key, error) ||
        !read_linear(m, f, prefix, "mixer.value.kernel", layer, D, values, m->largest, normal, &block->value, error) ||
        !read_linear(m, f, prefix, "mixer.out.kernel", layer, values, D, m->down_largest, normal || sub_norm,
                     &block->out, error))
        return 0;
    if (m->is_retention &&
        (!read_linear(m, f, prefix, "mixer.gate.kernel", layer, D, values, m->largest, normal, &block->gate, error) ||
         !read_decays(m, f, prefix, layer, section(config, "retention", error), block, error)))
        return 0;
    size_t E = routed ? m->num_experts : 0, shared = routed ? m->num_shared : 0;
    if (!(block->ffn = take(&m->memory, (routed ? E + shared : 1) * sizeof *block->ffn)))
        return fail(error, "there is not enough memory", NO_NAME), 0;
    join(name, prefix, "ffn.", "");
    if (!routed) return read_feed_forward(m, f, name, layer, width, block->ffn, error);
    if (!read_linear(m, f, prefix, "ffn.router", layer, D, E, 0, 0, &block->router, error)) return 0;
    join(name, prefix, "ffn.bias_E", "");
    if (!(block->bias = read_rows(m, f, name, layer, 1, E, error))) return 0;
    for (size_t e = 0; e < E + shared; e++) {
        join(name, prefix, e < E ? "ffn.experts." : "ffn.shared.", "");
        size_t index = e < E ? layer * E + e : layer * shared + (e - E);
        if (!read_feed_forward(m, f, name, index, width, &block->ffn[e], error)) return 0;
    }
    return 1;
}

static int read_model(Model *m, const File *f, char *error) {
    static const char *const MIXERS[] = {"retention", "attention", 0};
    static const char *const FFNS[] = {"kan", "mlp", "swiglu", "geglu", 0};
    static const char *const RESIDUALS[] = {"pre_norm", "deepnorm", 0};
    static const char *const LINEARS[] = {"dense", "ternary", "binary", 0};
    static const char *const SCORES[] = {"softmax", "sigmoid", 0};
    static const char *const LAYOUTS[] = {"half", "interleaved", 0};
    static const char *const ROTARIES[] = {"linspace", "rope", 0};
    static const char *const NORMALIZATIONS[] = {"sqrt_sum", "none", 0};
    const size_t MOST = 1 << 24;
    Text c = f->model, quantization = section(c, "quantization", error), router = section(c, "router", error);
    Text rotary = section(c, "rotary", error);
    m->d_model = count_of(c, "d_model", 1, MOST, error);
    m->num_layers = count_of(c, "num_layers", 1, 10000, error);
    m->num_heads = count_of(c, "num_heads", 1, MOST, error);
    m->key_width = count_of(c, "key_width", 2, MOST, error);
    m->value_width = count_of(c, "value_width", 1, MOST, error);
    m->num_experts = count_of(c, "num_experts", 0, MOST, error);
    m->experts_per_token = count_of(c, "experts_per_token", 1, MOST, error);
    m->num_shared = count_of(c, "num_shared_experts", 0, MOST, error);
    m->num_groups = count_of(router, "num_groups", 1, MOST, error);
    m->groups_per_token = count_of(router, "groups_per_token", 1, m->num_groups, error);
    size_t hidden = count_of(c, "hidden_width", 1, MOST, error), expert = count_of(c, "expert_width", 1, MOST, error);
    size_t dense = count_of(c, "first_dense_layers", 0, m->num_layers, error);
    Text conv;
    m->num_earlier = find(c, "conv_size", &conv) ? count_of(c, "conv_size", 1, 1024, error) - 1 : 0;
    m->is_retention = word(c, "mixer", MIXERS, error) == 0;
    m->ffn = word(c, "ffn", FFNS, error);
    m->is_deepnorm = word(c, "residual", RESIDUALS, error);
    m->sub_norm = flag(c, "sub_norm", error);
    m->normalizes_input = flag(quantization, "normalize_input", error) && word(c, "linear", LINEARS, error) != 0;
    m->is_sigmoid = word(router, "score", SCORES, error);
    m->normalizes_gates = flag(router, "normalize", error);
    m->halves = word(rotary, "layout", LAYOUTS, error) == 0;
    m->divides_rows = word(section(c, "retention", error), "normalization", NORMALIZATIONS, error) == 0;
    m->epsilon = (float)member(c, "norm_epsilon", error);
    m->gate_scale = (float)member(router, "scale", error);
    m->embedding_scale = (float)member(c, "embedding_scale", error);
    m->alpha = (float)sqrt(sqrt((double)(2 * m->num_layers)));
    m->largest = (float)((1 << (count_of(quantization, "activation_bits", 2, 8, error) - 1)) - 1);
    m->down_largest = (float)((1 << (count_of(quantization, "down_activation_bits", 2, 8, error) - 1)) - 1);
    read_grid(&m->grid, section(c, "kan", error), error);
    if (m->key_width % 2) fail(error, "its config has an odd key_width", NO_NAME);
    if (m->num_experts &&
        (m->num_experts % m->num_groups ||
         m->experts_per_token > m->num_experts / m->num_groups * m->groups_per_token || m->num_experts > 65536))
        fail(error, "its config has experts that do not fit their groups", NO_NAME);
    if (*error) return 0;

    Source s;
    if (!find_source(f, "embedding_WD", &s) || s.num_dimensions != 2 || s.shape[1] != m->d_model || !s.shape[0])
        return fail(error, "its embedding is missing or of another size", NO_NAME), 0;
    m->vocab_size = s.shape[0];
    m->num_matrices = EMBEDDING;
    if (!read_table(m, f, "embedding_WD", &m->embedding, &m->embedding_scales, error)) return 0;
    m->head = m->embedding, m->head_scales = m->embedding_scales;
    if (!flag(c, "tied_embeddings", error) && !read_table(m, f, "head_WD", &m->head, &m->head_scales, error)) return 0;
    m->num_matrices = FIRST;
    if (m->num_earlier &&
        !(m->convolution = read_rows(m, f, "convolution.weight_CD", 0, m->num_earlier, m->d_model, error)))
        return 0;
    if (!m->is_deepnorm && !(m->final_norm = read_rows(m, f, "final_norm.scale_D", 0, 1, m->d_model, error))) return 0;
    size_t pairs = m->key_width / 2;
    size_t steps = word(rotary, "kind", ROTARIES, error) ? pairs : pairs > 1 ? pairs - 1 : 1;
    double log_base = log64(member(rotary, "base", error));
    m->turns = take(&m->memory, pairs * sizeof(double));
    m->blocks = take(&m->memory, m->num_layers * sizeof(Block));
    if (!m->turns || !m->blocks) return fail(error, "there is not enough memory", NO_NAME), 0;
    for (size_t i = 0; i < pairs; i++)
        m->turns[i] = exp64(-log_base * ((double)i / (double)steps)) / 6.283185307179586;
    size_t num_dense = m->num_experts ? dense : m->num_layers;
    for (size_t i = 0; i < m->num_layers; i++) {
        int routed = i >= num_dense;
        if (!read_block(m, f, routed ? "routed_blocks." : "dense_blocks.", routed ? i - num_dense : i, routed, c,
                        routed ? expert : hidden, &m->blocks[i], error))
            return 0;
    }
    return !*error;
}

static const Kernels *best_kernels(const char *asked) {
#ifdef MK_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && (!asked || !strcmp(asked, "avx2"))) return &AVX2;
    if (__builtin_cpu_supports("ssse3") && (!asked || !strcmp(asked, "ssse3"))) return &SSSE3;
#endif
    return !asked || !strcmp(asked, "plain") ? &PLAIN : NULL;
}

void mk_free(Model *m) {
    if (!m) return;
    give_back(&m->memory);
    free(m);
}

/* The model of a file's bytes, which may go afterwards; NULL and a sentence in error [256] where that cannot be.
   kernels: "plain", "ssse3", "avx2", or NULL for the fastest. check_hash: 0 where that has been done. */
Model *mk_load(const uint8_t *content, size_t size, const char *kernels, int check_hash, char *error) {
    File file;
    *error = 0;
    volatile float third = 1.0f / 3.0f, three = 3.0f, minus = -1.0f;
    if (third * three + minus != 0.0f)
        return fail(error, "this build fuses products and sums: -ffp-contract=off is needed", NO_NAME), NULL;
    Model *m = calloc(1, sizeof *m);
    if (!m) return fail(error, "there is not enough memory", NO_NAME), NULL;
    for (int byte = 0; byte < 256; byte++)
        for (int i = 0; i < 4; i++) CODES_OF_BYTE[byte][i] = (float)((byte >> 2 * i & 3) - 1);
    m->kernels = best_kernels(kernels);
    if (!m->kernels) fail(error, "this processor has no such kernels", NO_NAME);
    int opened = open_file(&file, content, size, error), ready = 0;
    if (opened && !*error && check_hash && !has_hash(&file, file.sha256))
        fail(error, "its tensors are not those that were written: their SHA-256 is another", NO_NAME);
    if (opened && file.sha256.end - file.sha256.p == sizeof m->sha256)
        memcpy(m->sha256, file.sha256.p, sizeof m->sha256);
    if (opened && !*error) ready = read_model(m, &file, error);
    close_file(&file);
    if (ready) return m;
    fail(error, "the file cannot be read", NO_NAME);
    mk_free(m);
    return NULL;
}

size_t mk_vocab_size(const Model *m) { return m->vocab_size; }
const char *mk_kernels(const Model *m) { return m->kernels->name; }

/* --- an adapter out of its file: docs/adapters.md ----------------------------------------------------------------- */

typedef struct { /* A [D, K] and B [K, F] beside a matrix; K is 0 where there are none */
    size_t rank, stride, wide;
    float *A; /* [K in whole RANKS, D], so far apart from rank to rank; of a spline [K, G, D in whole lanes] */
    float *B; /* [K / RANKS, F / LANES, RANKS, LANES] */
} LowRank;

typedef struct {
    const Model *model;
    LowRank *of; /* by the number of the matrix */
    Memory memory;
} Adapter;

typedef struct { /* a matrix in a file, whose numbers lie so far apart from row to row and from column to column */
    const uint8_t *data;
    size_t rows, columns, row, column;
} View;

static float view_at(View v, size_t row, size_t column) {
    return read_float(v.data + 4 * (row * v.row + column * v.column));
}

static View turned(View v) {
    View other = {v.data, v.columns, v.rows, v.column, v.row};
    return other;
}

/* groups: that the rows of A are in, each of which begins at a whole lane. */
static int make_low_rank(Adapter *a, LowRank *low, View A, View B, size_t groups, char *error) {
    size_t K = A.columns, D = A.rows / groups, wide = whole(D, LANES), ranks = whole(K, RANKS);
    low->stride = groups * wide, low->wide = whole(B.columns, LANES);
    low->A = take(&a->memory, ranks * low->stride * sizeof(float));
    low->B = take(&a->memory, ranks * low->wide * sizeof(float));
    if (!low->A || !low->B) return fail(error, "there is not enough memory", NO_NAME), 0;
    for (size_t i = 0; i < ranks * low->wide; i++) low->B[i] = -0.0f; /* what is beyond K changes not even a sign */
    for (size_t k = 0; k < K; k++) {
        for (size_t r = 0; r < A.rows; r++) low->A[k * low->stride + r / D * wide + r % D] = view_at(A, r, k);
        float *of_four = low->B + k / RANKS * RANKS * low->wide + k % RANKS * LANES;
        for (size_t c = 0; c < B.columns; c++) of_four[c / LANES * RANKS * LANES + c % LANES] = view_at(B, k, c);
    }
    low->rank = K;
    return 1;
}

/* Whether there is a factor for each matrix of a stack, or one for all experts of a layer. */
static int fits(const Stack *stack, const Tensor *t, int *is_shared) {
    int n = stack->num_leading, last = n - 1;
    if (t->num_dimensions != n + 2 || t->width != 4) return 0;
    for (int i = 0; i < last; i++)
        if (t->shape[i] != stack->shape[i]) return 0;
    const char *experts = "routed_blocks.ffn.experts.";
    *is_shared = n > 0 && !memcmp(stack->name, experts, strlen(experts)) && t->shape[last] == 1;
    return n == 0 || *is_shared || t->shape[last] == stack->shape[last];
}

static int read_factors(Adapter *a, const Stack *stack, const Tensor *A, const Tensor *B, char *error) {
    int n = stack->num_leading, is_shared, both;
    if (!fits(stack, A, &is_shared) || !fits(stack, B, &both) || is_shared != both)
        return fail(error, "they are of another shape than its matrix: factors of ", A->name), 0;
    size_t D = A->shape[n], K = A->shape[n + 1], F = B->shape[n + 1], matrices = 1;
    if (D != stack->rows || F != stack->columns || K != B->shape[n] || !K)
        return fail(error, "they are of another shape than its matrix: factors of ", A->name), 0;
    for (size_t i = 0; i < A->size + B->size; i++) {
        float value = read_float(i < A->size ? A->data + 4 * i : B->data + 4 * (i - A->size));
        if (!(value - value == 0.0f)) return fail(error, "it has numbers that are not finite: ", A->name), 0;
    }
    for (int i = 0; i < n; i++) matrices *= stack->shape[i];
    for (size_t i = 0; i < matrices; i++) {
        size_t experts = is_shared ? stack->shape[n - 1] : 1, index = i / experts, number = stack->first + i;
        if (i % experts) {
            a->of[number] = a->of[number - 1];
            continue;
        }
        View of_A = {A->data + 4 * index * D * K, D, K, K, 1}, of_B = {B->data + 4 * index * K * F, K, F, F, 1};
        if (number != HEAD && !make_low_rank(a, &a->of[number], of_A, of_B, stack->groups, error)) return 0;
        int is_head = number == HEAD || (number == EMBEDDING && a->model->head.data == a->model->embedding.data);
        if (is_head && !make_low_rank(a, &a->of[HEAD], turned(of_B), turned(of_A), 1, error)) return 0; /* A (B h) */
    }
    return 1;
}

static int read_adapter(Adapter *a, const File *f, char *error) {
    const Model *m = a->model;
    if (!(a->of = take(&a->memory, m->num_matrices * sizeof *a->of)))
        return fail(error, "there is not enough memory", NO_NAME), 0;
    for (const Tensor *t = f->tensors; t < f->tensors + f->num_tensors; t++) {
        size_t n = (size_t)(t->name.end - t->name.p), ending = strlen(".lora_A");
        if (n < ending || memcmp(t->name.end - ending, ".lora_", ending - 1) || !strchr("AB", t->name.end[-1]))
            return fail(error, "this is no factor of a matrix: ", t->name), 0;
        Text name = {t->name.p, t->name.end - ending};
        const Tensor *other = f->tensors;
        for (; other < f->tensors + f->num_tensors; other++)
            if ((size_t)(other->name.end - other->name.p) == n && !memcmp(other->name.p, t->name.p, n - 1) &&
                other->name.end[-1] != t->name.end[-1])
                break;
        if (other == f->tensors + f->num_tensors) return fail(error, "it lacks the other factor of ", name), 0;
        const Stack *stack = m->stacks;
        while (stack < m->stacks + m->num_stacks && !text_is(name, stack->name)) stack++;
        if (stack == m->stacks + m->num_stacks) return fail(error, "the model has no matrix ", name), 0;
        if (t->name.end[-1] == 'A' && !read_factors(a, stack, t, other, error)) return 0;
    }
    return 1;
}

void mk_drop(Adapter *a) {
    if (!a) return;
    give_back(&a->memory);
    free(a);
}

/* The adapter of a file's bytes, which may go afterwards, for sessions of a model that has to stay; NULL and a sentence
   in error [256] where that cannot be. check_hash: as in mk_load. */
Adapter *mk_adapter(const Model *m, const uint8_t *content, size_t size, int check_hash, char *error) {
    File file;
    Text base;
    *error = 0;
    Adapter *a = calloc(1, sizeof *a);
    if (!a) return fail(error, "there is not enough memory", NO_NAME), NULL;
    a->model = m;
    int opened = open_tensors(&file, content, size, "\"mixkabrn-adapter-1\"", error), ready = 0;
    if (opened && (!find(file.metadata, "base", &base) || base.end - base.p != sizeof m->sha256))
        fail(error, "it does not say which model it is for", NO_NAME);
    if (opened && !*error && memcmp(base.p, m->sha256, sizeof m->sha256)) {
        Text begins = {base.p + 1, base.p + 13};
        fail(error, "it is for another model, whose SHA-256 begins with ", begins);
    }
    if (opened && !*error && check_hash && !has_hash(&file, file.sha256))
        fail(error, "its tensors are not those that were written: their SHA-256 is another", NO_NAME);
    if (opened && !*error) ready = read_adapter(a, &file, error);
    close_file(&file);
    if (ready) return a;
    mk_drop(a);
    return NULL;
}

/* --- one token --------------------------------------------------------------------------------------------------

   A state is one piece of memory: position, earlier tokens, then each layer's; so it is saved and restored as it is. */

typedef struct { /* what matrices read */
    const float *x;
    float *normal, *silu, *functions; /* x normalised; of edges, silu(x) and functions [G, D] */
    int8_t *codes;                    /* of x, with zeros up to whole INPUTS */
    float *rounded;                   /* codes times their scale */
    const float *given;               /* what a matrix multiplies: x, or x rounded */
    float scale;
    int32_t sum;
    uint32_t *rows; /* of splines, whose functions are not 0, and their values */
    float *values;
    size_t *ends; /* [G], of each function's rows */
} Input;

typedef struct { /* a feed-forward layer at work */
    const FeedForward *f;
    Input input;
    float *hidden, *gate, *y;
} Branch;

typedef struct Session Session;

#ifdef MK_THREADS
enum { MOST_THREADS = 16 };

typedef struct { /* threads that take part in the caller's jobs, as they come to it */
    uint64_t work; /* turn << 32 | parts of its jobs << 16 | those that are taken */
    size_t num_threads, num_jobs, undone; /* parts */
    int sleeping, is_waiting, ends;
    pthread_mutex_t lock;
    pthread_cond_t begins, done;
    pthread_t threads[MOST_THREADS];
} Pool;
#endif

typedef struct Job { /* outputs of a matrix, in groups of LANES, or heads: each is computed alike, whoever does it */
    void (*part)(Session *s, const struct Job *job, size_t begin, size_t end);
    size_t size;
    const void *what;
    const Input *input;
    float *y;
} Job;

struct Session {
    const Model *model;
    size_t max_length; /* of an attention's cache */
    size_t num_bytes;
    uint8_t *memory; /* int64 position, int64 earlier tokens, then of each layer what layer_bytes says */
    float *x, *read, *branch, *query, *key, *value, *gate, *scratch, *turns, *scores;
    Input input;
    Branch *branches; /* the experts of a token and the shared ones, or one */
    Job *jobs;
    uint32_t *all_rows; /* 0, 1, ... */
    struct {
        const Adapter *adapter;
        float weight;
    } *beside; /* low-rank matrices */
    size_t num_beside, room_beside;
    float *logits, *gates, *weights; /* of tokens, [W] */
    size_t *chosen, *order;          /* of tokens by weight, [W] */
    void *taken;
#ifdef MK_THREADS
    Pool pool;
#endif
};

static size_t layer_bytes(const Model *m, size_t max_length) {
    size_t heads = m->num_heads;
    if (!m->is_retention) return max_length * heads * (m->key_width + m->value_width) * sizeof(float);
    return heads * sizeof(double) + whole(heads * m->key_width * m->value_width, 2) * sizeof(float);
}

/* One of some parts of the jobs. */
static void do_part(Session *s, size_t num_jobs, size_t part, size_t parts) {
    size_t size = 0, begin, end;
    for (size_t i = 0; i < num_jobs; i++) size += s->jobs[i].size;
    begin = size * part / parts, end = size * (part + 1) / parts;
    for (Job *job = s->jobs; end; job++) {
        size_t last = end < job->size ? end : job->size;
        if (begin < last) job->part(s, job, begin, last);
        begin -= begin < job->size ? begin : job->size;
        end -= last;
    }
}

#ifdef MK_THREADS
static int is_open(uint64_t work) { return (work & 0xffff) < (work >> 16 & 0xffff); }

/* Does parts of the jobs until all are taken. */
static void take_part(Session *s) {
    Pool *pool = &s->pool;
    uint64_t work = __atomic_load_n(&pool->work, __ATOMIC_ACQUIRE);
    while (is_open(work)) {
        if (!__atomic_compare_exchange_n(&pool->work, &work, work + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) continue;
        do_part(s, pool->num_jobs, work & 0xffff, work >> 16 & 0xffff);
        if (__atomic_sub_fetch(&pool->undone, 1, __ATOMIC_SEQ_CST) == 0 &&
            __atomic_load_n(&pool->is_waiting, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->done);
            pthread_mutex_unlock(&pool->lock);
        }
        work = __atomic_load_n(&pool->work, __ATOMIC_ACQUIRE);
    }
}

enum { PATIENCE = 500 }; /* looks for what will come soon; no longer than it takes to wake a thread */

static void pause_(void) {
#ifdef MK_X86
    _mm_pause();
#endif
}

static void sleep_until_work(Pool *pool) {
    pthread_mutex_lock(&pool->lock);
    __atomic_add_fetch(&pool->sleeping, 1, __ATOMIC_SEQ_CST);
    while (!is_open(__atomic_load_n(&pool->work, __ATOMIC_SEQ_CST)) && !__atomic_load_n(&pool->ends, __ATOMIC_SEQ_CST))
        pthread_cond_wait(&pool->begins, &pool->lock);
    __atomic_sub_fetch(&pool->sleeping, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->lock);
}

static void *help(void *argument) {
    Session *s = argument;
    Pool *pool = &s->pool;
    while (!__atomic_load_n(&pool->ends, __ATOMIC_SEQ_CST)) {
        int looks = 0;
        while (looks++ < PATIENCE && !is_open(__atomic_load_n(&pool->work, __ATOMIC_ACQUIRE))) pause_();
        if (!is_open(__atomic_load_n(&pool->work, __ATOMIC_ACQUIRE))) sleep_until_work(pool);
        take_part(s);
    }
    return NULL;
}

static void wake(Pool *pool) {
    if (!__atomic_load_n(&pool->sleeping, __ATOMIC_SEQ_CST)) return;
    pthread_mutex_lock(&pool->lock);
    pthread_cond_broadcast(&pool->begins);
    pthread_mutex_unlock(&pool->lock);
}

static void run(Session *s, size_t num_jobs) {
    Pool *pool = &s->pool;
    if (pool->num_threads < 2) {
        do_part(s, num_jobs, 0, 1);
        return;
    }
    uint64_t parts = 2 * pool->num_threads, turn = (pool->work >> 32) + 1;
    pool->num_jobs = num_jobs;
    __atomic_store_n(&pool->undone, parts, __ATOMIC_SEQ_CST);
    __atomic_store_n(&pool->work, turn << 32 | parts << 16, __ATOMIC_SEQ_CST);
    wake(pool);
    take_part(s);
    for (int looks = 0; looks < PATIENCE; looks++) {
        if (!__atomic_load_n(&pool->undone, __ATOMIC_ACQUIRE)) return;
        pause_();
    }
    pthread_mutex_lock(&pool->lock);
    __atomic_store_n(&pool->is_waiting, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&pool->undone, __ATOMIC_SEQ_CST)) pthread_cond_wait(&pool->done, &pool->lock);
    __atomic_store_n(&pool->is_waiting, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&pool->lock);
}

/* So many threads share a session's steps from now on, which changes no bit; returns how many there are. */
size_t mk_threads(Session *s, size_t count) {
    Pool *pool = &s->pool;
    if (pool->num_threads > 1) {
        __atomic_store_n(&pool->ends, 1, __ATOMIC_SEQ_CST);
        wake(pool);
        for (size_t i = 1; i < pool->num_threads; i++) pthread_join(pool->threads[i], NULL);
        pthread_mutex_destroy(&pool->lock);
        pthread_cond_destroy(&pool->begins);
        pthread_cond_destroy(&pool->done);
    }
    memset(pool, 0, sizeof *pool);
    pool->num_threads = 1;
    if (count < 2 || pthread_mutex_init(&pool->lock, NULL) || pthread_cond_init(&pool->begins, NULL) ||
        pthread_cond_init(&pool->done, NULL))
        return 1;
    while (pool->num_threads < count && pool->num_threads < MOST_THREADS &&
           !pthread_create(&pool->threads[pool->num_threads], NULL, help, s))
        pool->num_threads++;
    return pool->num_threads;
}
#else
static void run(Session *s, size_t num_jobs) { do_part(s, num_jobs, 0, 1); }

size_t mk_threads(Session *s, size_t count) { return (void)s, (void)count, 1; }
#endif

size_t mk_state_bytes(const Session *s) { return s->num_bytes; }
void *mk_state(Session *s) { return s->memory; }
const float *mk_logits(const Session *s) { return s->logits; }

void mk_end(Session *s) {
    if (!s) return;
    mk_threads(s, 1);
    free(s->beside);
    free(s->taken);
    free(s);
}

static void *lay(uint8_t *begin, size_t *at, size_t size) { /* the next piece; NULL while pieces are only counted */
    size_t from = *at;
    *at += whole(size, 64);
    return begin ? begin + from : NULL;
}

static void lay_input(uint8_t *p, size_t *at, Input *input, size_t widest, size_t functions) {
    input->normal = lay(p, at, widest * sizeof(float));
    input->silu = lay(p, at, widest * sizeof(float));
    input->codes = lay(p, at, widest);
    input->rounded = lay(p, at, widest * sizeof(float));
    input->functions = lay(p, at, functions * widest * sizeof(float));
    input->rows = lay(p, at, functions * widest * sizeof(uint32_t));
    input->values = lay(p, at, functions * widest * sizeof(float));
    input->ends = lay(p, at, functions * sizeof(size_t));
}

/* Where everything of a session lies; its bytes. */
static size_t lay_out(Session *s, uint8_t *p) {
    const Model *m = s->model;
    size_t D = m->d_model, keys = m->num_heads * m->key_width, values = m->num_heads * m->value_width, at = 0;
    size_t widest = keys > values ? keys : values, W = whole(m->vocab_size, LANES), N = m->experts_per_token;
    if (D > widest) widest = D;
    if (m->num_experts > widest) widest = m->num_experts;
    size_t hidden = whole(m->width, INPUTS), functions = (size_t)m->grid.num_basis, stream = whole(D, INPUTS);
    widest = whole(widest, INPUTS);
    s->memory = lay(p, &at, s->num_bytes);
    float **parts[] = {&s->x, &s->read, &s->branch, &s->query, &s->key, &s->value, &s->gate};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) *parts[i] = lay(p, &at, widest * sizeof(float));
    s->scratch = lay(p, &at, (widest > hidden ? widest : hidden) * sizeof(float));
    s->turns = lay(p, &at, m->key_width * sizeof(float));
    s->scores = lay(p, &at, whole(s->max_length, LANES) * sizeof(float));
    lay_input(p, &at, &s->input, widest, functions);
    size_t num_branches = N + m->num_shared;
    s->jobs = lay(p, &at, (2 * num_branches + 4) * sizeof *s->jobs);
    s->branches = lay(p, &at, num_branches * sizeof *s->branches);
    for (size_t i = 0; i < num_branches; i++) {
        Branch held, *branch = p ? &s->branches[i] : &held;
        lay_input(p, &at, &branch->input, stream > hidden ? stream : hidden, functions);
        branch->hidden = lay(p, &at, hidden * sizeof(float));
        branch->gate = lay(p, &at, hidden * sizeof(float));
        branch->y = lay(p, &at, stream * sizeof(float));
    }
    s->all_rows = lay(p, &at, (widest > hidden ? widest : hidden) * sizeof(uint32_t));
    for (size_t i = 0; p && i < (widest > hidden ? widest : hidden); i++) s->all_rows[i] = (uint32_t)i;
    s->logits = lay(p, &at, W * sizeof(float));
    s->weights = lay(p, &at, W * sizeof(float));
    s->gates = lay(p, &at, N * sizeof(float));
    s->chosen = lay(p, &at, (N + m->num_groups) * sizeof(size_t));
    s->order = lay(p, &at, m->vocab_size * sizeof(size_t));
    return at;
}

/* A session of a model, empty; NULL without memory. max_length: positions that an attention keeps. */
Session *mk_new(const Model *m, size_t max_length) {
    Session *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->model = m, s->max_length = m->is_retention ? 0 : max_length;
    s->num_bytes = (1 + m->num_earlier) * sizeof(int64_t) + m->num_layers * layer_bytes(m, s->max_length);
    s->taken = calloc(lay_out(s, NULL) + 64, 1);
    if (!s->taken) return mk_end(s), NULL;
    lay_out(s, (uint8_t *)s->taken + (64 - (uintptr_t)s->taken % 64));
    return s;
}

void mk_reset(Session *s) { memset(s->memory, 0, s->num_bytes); }

/* From now on an adapter of the session's model, times a weight, is beside its matrices, and last among those that are;
   NULL takes all away. The adapter has to stay. 0 for one of another model, or without memory. */
int mk_adapt(Session *s, const Adapter *a, float weight) {
    if (!a) return s->num_beside = 0, 1;
    if (a->model != s->model) return 0;
    if (s->num_beside == s->room_beside) {
        size_t room = s->room_beside ? 2 * s->room_beside : 4;
        void *grown = realloc(s->beside, room * sizeof *s->beside);
        if (!grown) return 0;
        s->beside = grown, s->room_beside = room;
    }
    s->beside[s->num_beside].adapter = a, s->beside[s->num_beside++].weight = weight;
    return 1;
}

/* What a matrix makes of x before it multiplies. */
static void read_input(Session *s, Input *in, const float *x, const Linear *w) {
    in->x = x;
    if (w->normalize) {
        rms_norm(in->normal, x, NULL, w->d_in, s->model->epsilon);
        in->x = in->normal;
    }
    in->given = in->x;
    if (!w->codes) return;
    in->scale = s->model->kernels->round(in->codes, in->x, w->d_in, w->largest, &in->sum);
    memset(in->codes + w->d_in, 0, whole(w->d_in, INPUTS) - w->d_in);
    if (!s->num_beside) return;
    for (size_t i = 0; i < w->d_in; i++) in->rounded[i] = (float)in->codes[i] * in->scale;
    in->given = in->rounded;
}

/* y += values W of some rows of W, groups begin to end of LANES outputs; y is the first of these. */
static void add_rows(const Model *m, float *y, const Tiles *w, const uint32_t *rows, const float *values, size_t count,
                     float scale, size_t begin, size_t end) {
    static const size_t BITS[] = {32, 2, 8};
    for (size_t next; begin < end; begin = next) {
        size_t tile = begin / (TILE / LANES), last = (tile + 1) * (TILE / LANES), groups = w->wide / LANES;
        if (last > groups) last = groups;
        next = last < end ? last : end;
        size_t stride = (last - tile * (TILE / LANES)) * LANES, at = place(w, 0, begin * LANES);
        m->kernels->sums[w->kind](y, next - begin, (uint8_t *)w->data + at * BITS[w->kind] / 8, stride, rows, values,
                                  count, scale);
        y += (next - begin) * LANES;
    }
}

/* y += z B of the ranks from k on, RANKS at most; y is the first of the groups begin to end. */
static void add_ranks(const Model *m, float *y, const LowRank *low, size_t k, const float *z, float weight,
                      size_t begin, size_t end) {
    float weighted[RANKS];
    for (size_t i = 0; i < RANKS; i++) weighted[i] = k + i < low->rank ? z[i] * weight : 0.0f;
    m->kernels->ranks(y, end - begin, weighted, low->B + k * low->wide + begin * RANKS * LANES);
}

/* y += (x [n] A) B of all low-rank matrices beside matrix `number`, one after the other. */
static void add_low_ranks(const Session *s, float *y, size_t number, const float *x, size_t n, size_t begin,
                          size_t end) {
    for (size_t i = 0; i < s->num_beside; i++) {
        const LowRank *low = &s->beside[i].adapter->of[number];
        for (size_t k = 0; k < low->rank; k += RANKS) {
            float z[RANKS];
            s->model->kernels->totals(z, x, n, low->A + k * low->stride, low->stride);
            add_ranks(s->model, y, low, k, z, s->beside[i].weight, begin, end);
        }
    }
}

/* y [F] = x [D] W, and what adapters add */
static void multiply_part(Session *s, float *y, const Input *in, const Linear *w, size_t begin, size_t end) {
    const Model *m = s->model;
    size_t blocks = whole(w->d_in, INPUTS) / INPUTS;
    if (w->codes) {
        const uint8_t *codes = w->codes + begin * blocks * BLOCK;
        m->kernels->dots(y + begin * LANES, end - begin, codes, in->codes, blocks, in->sum, in->scale * w->scale);
    } else {
        memset(y + begin * LANES, 0, (end - begin) * LANES * sizeof(float));
        add_rows(m, y + begin * LANES, &w->plain, s->all_rows, in->x, w->d_in, w->scale, begin, end);
    }
    add_low_ranks(s, y + begin * LANES, w->number, in->given, w->d_in, begin, end);
}

static void linear_part(Session *s, const Job *job, size_t begin, size_t end) {
    multiply_part(s, job->y, job->input, job->what, begin, end);
}

/* The product of a matrix; y has room for whole lanes. */
static Job linear(float *y, const Input *in, const Linear *w) {
    Job job = {linear_part, whole(w->d_out, LANES) / LANES, w, in, y};
    return job;
}

static void multiply(Session *s, float *y, const float *x, const Linear *w) {
    read_input(s, &s->input, x, w);
    s->jobs[0] = linear(y, &s->input, w);
    run(s, 1);
}

/* y has room for whole lanes, and is not x */
static void sigmoids(const Kernels *k, float *y, const float *x, size_t n) {
    size_t wide = whole(n, LANES);
    for (size_t i = 0; i < n; i++) y[i] = -x[i];
    for (size_t i = n; i < wide; i++) y[i] = 0.0f;
    k->exps(y, y, wide);
    for (size_t i = 0; i < n; i++) y[i] = 1.0f / (1.0f + y[i]);
}

static void silus(const Kernels *k, float *y, const float *x, size_t n) {
    size_t wide = whole(n, LANES);
    for (size_t i = 0; i < n; i++) y[i] = -x[i];
    for (size_t i = n; i < wide; i++) y[i] = 0.0f;
    k->exps(y, y, wide);
    for (size_t i = 0; i < n; i++) y[i] = x[i] / (1.0f + y[i]);
}

static float ratio(float a, float b) { return b > 0.0f ? a / b : 0.0f; }

/* All functions of a degree at one input, on the knots t[0], t[step], ...: values [knots - 1] become fewer. */
static void recursion(float *v, float x, const float *t, size_t step, int knots, int degree, int from_left) {
    float end = t[(size_t)(knots - 1) * step];
    for (int i = 0; i < knots - 1; i++) {
        float left = t[(size_t)i * step], right = t[(size_t)(i + 1) * step];
        int inside = from_left ? x > left && x <= right
                               : (x >= left && x < right) || (x == end && right == end && left < right);
        v[i] = (float)inside;
    }
    for (int p = 1; p <= degree; p++)
        for (int i = 0; i < knots - 1 - p; i++) {
            float low = t[(size_t)i * step], high = t[(size_t)(i + p + 1) * step];
            float rise = ratio(1.0f, t[(size_t)(i + p) * step] - low);
            float fall = ratio(1.0f, high - t[(size_t)(i + 1) * step]);
            v[i] = (x - low) * rise * v[i] + (high - x) * fall * v[i + 1];
        }
}

static void knot_functions(const Grid *g, const float *knots, float *out, const float *x, size_t D, size_t wide) {
    int count = g->num_basis + g->degree + 1, p = g->degree;
    float v[128], lower[128];
    for (size_t d = 0; d < D; d++) {
        const float *t = knots + d;
        float low = t[(size_t)p * D], high = t[(size_t)(count - 1 - p) * D], at = x[d];
        if (g->extrapolation != FADE) {
            if (at < low) at = low;
            if (at > high) at = high;
        }
        recursion(v, at, t, D, count, p, 0);
        if (g->extrapolation == GO_ON && p > 0) {
            float beyond[2] = {x[d] < low ? x[d] - low : 0.0f, x[d] > high ? x[d] - high : 0.0f};
            for (int end = 0; end < 2; end++) {
                recursion(lower, end ? high : low, t, D, count, p - 1, end);
                for (int i = 0; i <= g->num_basis; i++)
                    lower[i] = ratio((float)p, t[(size_t)(i + p) * D] - t[(size_t)i * D]) * lower[i];
                for (int i = 0; i < g->num_basis; i++) v[i] = v[i] + beyond[end] * (lower[i] - lower[i + 1]);
            }
        }
        for (int i = 0; i < g->num_basis; i++) out[(size_t)i * wide + d] = v[i];
    }
}

static void rational(const KanLayer *layer, float *out, const float *x, size_t D) {
    for (size_t d = 0; d < D; d++) {
        float upper = layer->numerator[(size_t)(layer->num_powers - 1) * D + d];
        float lower = layer->denominator[(size_t)(layer->num_lower - 1) * D + d];
        for (int p = layer->num_powers - 2; p >= 0; p--) upper = upper * x[d] + layer->numerator[(size_t)p * D + d];
        for (int p = layer->num_lower - 2; p >= 0; p--) lower = lower * x[d] + layer->denominator[(size_t)p * D + d];
        out[d] = upper / (1.0f + fabsf(x[d] * lower));
    }
}

static void tanhs(const Kernels *k, float *y, const float *x, size_t n) {
    size_t wide = whole(n, LANES);
    for (size_t i = 0; i < n; i++) y[i] = x[i] + x[i];
    for (size_t i = n; i < wide; i++) y[i] = 0.0f;
    k->exps(y, y, wide);
    for (size_t i = 0; i < n; i++) y[i] = 1.0f - 2.0f / (y[i] + 1.0f);
}

/* The functions on the edges at x: out [G, D in whole lanes] */
static void edge_functions(Session *s, const KanLayer *layer, float *out, const float *x, size_t D) {
    const Grid *g = &s->model->grid;
    const Kernels *k = s->model->kernels;
    size_t wide = whole(D, LANES);
    if (layer->knots) {
        knot_functions(g, layer->knots, out, x, D, wide);
    } else if (g->basis == BSPLINE) {
        k->bumps(g, out, s->scratch, x, wide);
    } else if (g->basis == RATIONAL) {
        rational(layer, out, x, D);
    } else if (g->basis == CHEBYSHEV) {
        tanhs(k, s->scratch, x, D);
        for (int i = 0; i < g->num_basis; i++)
            for (size_t d = 0; d < D; d++) {
                float t = s->scratch[d], *at = out + (size_t)i * wide + d;
                *at = i == 0 ? 1.0f : i == 1 ? t : 2.0f * t * at[-(ptrdiff_t)wide] - at[-2 * (ptrdiff_t)wide];
            }
    } else if (g->basis == FOURIER) {
        for (size_t d = 0; d < D; d++) {
            double turns = ((double)x[d] - (double)g->low) / g->span;
            out[d] = 1.0f;
            for (int i = 1; i < g->num_basis; i += 2) {
                float c, sine;
                cos_and_sin(turns * ((i + 1) / 2), &c, &sine);
                out[(size_t)i * wide + d] = c;
                if (i + 1 < g->num_basis) out[(size_t)(i + 1) * wide + d] = sine;
            }
        }
    } else {
        float step = (float)(g->span / (g->num_basis > 1 ? g->num_basis - 1 : 1));
        for (int i = 0; i < g->num_basis; i++) {
            float *row = out + (size_t)i * wide;
            for (size_t d = 0; d < D; d++) {
                float position = (x[d] - g->low) / step, most = (float)(g->num_basis + 31);
                position = position < -32.0f ? -32.0f : position > most ? most : position;
                row[d] = -((position - (float)i) * (position - (float)i));
            }
            for (size_t d = D; d < wide; d++) row[d] = 0.0f;
            k->exps(row, row, wide);
        }
    }
}

/* What a KAN layer reads: silu(x) for its base matrix, and the functions at x. */
static void read_edges(Session *s, Input *in, const float *x, const KanLayer *layer) {
    size_t D = layer->base.d_in, wide = whole(D, LANES), count = 0;
    silus(s->model->kernels, in->silu, x, D);
    read_input(s, in, in->silu, &layer->base);
    edge_functions(s, layer, in->functions, x, D);
    for (size_t g = 0; g < (size_t)s->model->grid.num_basis; g++) {
        for (size_t d = 0; d < D; d++) {
            float value = in->functions[g * wide + d];
            in->rows[count] = (uint32_t)(g * D + d), in->values[count] = value;
            count += value != 0.0f; /* a cubic spline has four that are not, and no sum is changed by adding 0 */
        }
        in->ends[g] = count;
        for (size_t d = D; d < wide; d++) in->functions[g * wide + d] = 0.0f;
    }
}

/* y [F] = silu(x) W + B(x) C */
static void kan_part(Session *s, const Job *job, size_t begin, size_t end) {
    const KanLayer *layer = job->what;
    const Input *in = job->input;
    const size_t first = begin, n = (size_t)s->model->grid.num_basis * whole(layer->base.d_in, LANES);
    multiply_part(s, job->y, in, &layer->base, begin, end);
    for (size_t next; begin < end; begin = next) {
        float sum[TILE] = {0}, *y = job->y + begin * LANES;
        next = (begin / (TILE / LANES) + 1) * (TILE / LANES);
        if (next > end) next = end;
        for (size_t g = 0, from = 0; g < (size_t)s->model->grid.num_basis; from = in->ends[g++])
            add_rows(s->model, sum, &layer->spline, in->rows + from, in->values + from, in->ends[g] - from,
                     layer->scales ? layer->scales[g] : 1.0f, begin, next);
        for (size_t i = 0; i < (next - begin) * LANES; i++) y[i] = y[i] + sum[i];
    }
    add_low_ranks(s, job->y + first * LANES, layer->number, in->functions, n, first, end);
}

static float erf_of(const Kernels *k, float x) {
    static const float C[] = {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f};
    float a = fabsf(x), t = 1.0f / (1.0f + 0.3275911f * a), y = 1.061405429f, e[LANES] = {0};
    for (int i = 0; i < 4; i++) y = y * t + C[i];
    e[0] = -a * a;
    k->exps(e, e, LANES);
    float size = 1.0f - y * t * e[0];
    return x < 0.0f || (x == 0.0f && 1.0f / x < 0.0f) ? -size : size;
}

/* branches' y = f(x) of two KAN layers, normalised in between */
static void kan_networks(Session *s, const float *x, size_t count) {
    const Model *m = s->model;
    const KanLayer *first = &s->branches[0].f->layers[0];
    int is_own = first->knots || first->numerator; /* each expert's functions, else all read the same */
    if (!is_own) read_edges(s, &s->input, x, first);
    for (int second = 0; second < 2; second++) {
        for (size_t i = 0; i < count; i++) {
            Branch *branch = &s->branches[i];
            const KanLayer *layer = &branch->f->layers[second];
            if (second || is_own) read_edges(s, &branch->input, second ? branch->hidden : x, layer);
            Job job = {kan_part, whole(layer->base.d_out, LANES) / LANES, layer,
                       second || is_own ? &branch->input : &s->input, second ? branch->y : branch->hidden};
            s->jobs[i] = job;
        }
        run(s, count);
        for (size_t i = 0; i < count && !second; i++) {
            float *hidden = s->branches[i].hidden;
            rms_norm(hidden, hidden, NULL, first->base.d_out, m->epsilon);
        }
    }
}

/* hidden = activation(hidden, gate) of an MLP or a gated layer; its gate is overwritten */
static void activate(Session *s, float *hidden, float *gate, size_t F) {
    const Kernels *k = s->model->kernels;
    float *scratch = s->scratch;
    if (s->model->ffn == MLP) {
        for (size_t i = 0; i < F; i++) {
            float up = hidden[i];
            gate[i] = 0.7978845608028654f * (up + 0.044715f * (up * up * up));
        }
        tanhs(k, scratch, gate, F);
        for (size_t i = 0; i < F; i++) hidden[i] = 0.5f * hidden[i] * (1.0f + scratch[i]);
    } else if (s->model->ffn == SWIGLU) {
        silus(k, scratch, gate, F);
        for (size_t i = 0; i < F; i++) hidden[i] = scratch[i] * hidden[i];
    } else {
        for (size_t i = 0; i < F; i++)
            hidden[i] = 0.5f * gate[i] * (1.0f + erf_of(k, gate[i] * 0.7071067811865476f)) * hidden[i];
    }
}

/* y [D] = f(x) of the first so many branches, whose f is set */
static void feed_forward(Session *s, const float *x, size_t count) {
    const Model *m = s->model;
    if (m->ffn == KAN) {
        kan_networks(s, x, count);
        return;
    }
    size_t num_jobs = 0;
    read_input(s, &s->input, x, &s->branches[0].f->up);
    for (size_t i = 0; i < count; i++) {
        Branch *branch = &s->branches[i];
        s->jobs[num_jobs++] = linear(branch->hidden, &s->input, &branch->f->up);
        if (m->ffn != MLP) s->jobs[num_jobs++] = linear(branch->gate, &s->input, &branch->f->gate);
    }
    run(s, num_jobs);
    for (size_t i = 0; i < count; i++) {
        Branch *branch = &s->branches[i];
        activate(s, branch->hidden, branch->gate, branch->f->up.d_out);
        read_input(s, &branch->input, branch->hidden, &branch->f->down);
        s->jobs[i] = linear(branch->y, &branch->input, &branch->f->down);
    }
    run(s, count);
}

static void softmax(const Kernels *k, float *y, size_t n) { /* in place, with room for whole lanes */
    float most = y[0];
    for (size_t i = 1; i < n; i++)
        if (y[i] > most) most = y[i];
    for (size_t i = 0; i < n; i++) y[i] = y[i] - most;
    for (size_t i = n; i < whole(n, LANES); i++) y[i] = 0.0f;
    k->exps(y, y, whole(n, LANES));
    float sum = total(y, n);
    for (size_t i = 0; i < n; i++) y[i] = y[i] / sum;
}

/* The largest of n values, best first, the first of equal ones; what is taken is marked by -inf in values. */
static void best_of(float *values, size_t n, size_t count, size_t *out) {
    for (size_t c = 0; c < count; c++) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            if (values[i] > values[best]) best = i;
        out[c] = best;
        values[best] = -INFINITY;
    }
}

/* Fills s->chosen and s->gates. */
static void route(Session *s, const float *x, const Block *block) {
    const Model *m = s->model;
    const Kernels *k = m->kernels;
    size_t E = m->num_experts, N = m->experts_per_token, size = E / m->num_groups;
    float *logits = s->query, *score = s->key, *choice = s->value;
    multiply(s, logits, x, &block->router);
    if (m->is_sigmoid) {
        sigmoids(k, score, logits, E);
    } else {
        memcpy(score, logits, E * sizeof(float));
        softmax(k, score, E);
    }
    for (size_t e = 0; e < E; e++) choice[e] = score[e] + block->bias[e];
    if (m->num_groups > 1) {
        float *groups = s->gate, *kept = s->scratch;
        for (size_t g = 0; g < m->num_groups; g++) {
            float first = -INFINITY, second = -INFINITY;
            for (size_t e = g * size; e < (g + 1) * size; e++) {
                if (choice[e] > first) second = first, first = choice[e];
                else if (choice[e] > second) second = choice[e];
            }
            groups[g] = m->is_sigmoid && size > 1 ? first + second : first;
        }
        for (size_t e = 0; e < E; e++) kept[e] = -INFINITY;
        best_of(groups, m->num_groups, m->groups_per_token, s->chosen + N);
        for (size_t c = 0; c < m->groups_per_token; c++)
            memcpy(kept + s->chosen[N + c] * size, choice + s->chosen[N + c] * size, size * sizeof(float));
        memcpy(choice, kept, E * sizeof(float));
    }
    best_of(choice, E, N, s->chosen);
    float *gates = s->gate;
    for (size_t c = 0; c < N; c++) gates[c] = (m->normalizes_gates && !m->is_sigmoid ? logits : score)[s->chosen[c]];
    if (m->normalizes_gates && !m->is_sigmoid) {
        softmax(k, gates, N);
    } else if (m->normalizes_gates) {
        float sum = total(gates, N);
        for (size_t c = 0; c < N; c++) gates[c] = gates[c] / sum;
    }
    for (size_t c = 0; c < N; c++) s->gates[c] = gates[c] * m->gate_scale;
}

/* s->branch = f(x), of a mixture; x is s->read */
static void mixture(Session *s, const float *x, const Block *block) {
    const Model *m = s->model;
    size_t D = m->d_model, N = m->experts_per_token, count = N + m->num_shared;
    const float *read = x;
    if (!block->ffn_norm) {
        rms_norm(s->branch, x, NULL, D, m->epsilon);
        read = s->branch;
    }
    route(s, read, block);
    for (size_t i = 0; i < count; i++) s->branches[i].f = &block->ffn[i < N ? s->chosen[i] : m->num_experts + i - N];
    feed_forward(s, x, count);
    memset(s->branch, 0, D * sizeof(float));
    for (size_t i = 0; i < N; i++)
        for (size_t d = 0; d < D; d++) s->branch[d] = s->branch[d] + s->gates[i] * s->branches[i].y[d];
    if (!m->num_shared) return;
    float *shared = s->branches[N].y;
    for (size_t i = N + 1; i < count; i++)
        for (size_t d = 0; d < D; d++) shared[d] = shared[d] + s->branches[i].y[d];
    for (size_t d = 0; d < D; d++) s->branch[d] = s->branch[d] + shared[d];
}

static void dense(Session *s, const float *x, const Block *block) { /* s->branch = f(x) */
    s->branches[0].f = block->ffn;
    feed_forward(s, x, 1);
    memcpy(s->branch, s->branches[0].y, s->model->d_model * sizeof(float));
}

static void rotate(const Session *s, float *x) { /* [H, K] */
    const Model *m = s->model;
    size_t P = m->key_width / 2;
    for (size_t h = 0; h < m->num_heads; h++)
        for (size_t i = 0; i < P; i++) {
            float c = s->turns[i], sine = s->turns[P + i];
            float *a = x + h * m->key_width + (m->halves ? i : 2 * i), *b = a + (m->halves ? P : 1);
            float first = *a * c - *b * sine, second = *b * c + *a * sine;
            *a = first, *b = second;
        }
}

/* s->query, s->key, s->value and, of a retention, s->gate */
static void project(Session *s, const float *x, const Block *block) {
    read_input(s, &s->input, x, &block->query);
    s->jobs[0] = linear(s->query, &s->input, &block->query);
    s->jobs[1] = linear(s->key, &s->input, &block->key);
    s->jobs[2] = linear(s->value, &s->input, &block->value);
    if (s->model->is_retention) s->jobs[3] = linear(s->gate, &s->input, &block->gate);
    run(s, s->model->is_retention ? 4 : 3);
}

/* y [H, V] = what heads recall, normalised; s->scratch has what each keeps, and the job's `what` their memory */
static void recall_part(Session *s, const Job *job, size_t begin, size_t end) {
    const Model *m = s->model;
    const Kernels *k = m->kernels;
    size_t K = m->key_width, V = m->value_width;
    const double *norms = job->what;
    float *sums = (float *)(norms + m->num_heads), *kept = s->scratch;
    for (size_t h = begin; h < end; h++) {
        float *y = job->y + h * V;
        memset(y, 0, V * sizeof(float));
        for (size_t i = h * K; i < (h + 1) * K; i++)
            k->recall(y, sums + i * V, s->value + h * V, kept[h], s->key[i], s->query[i], V);
        if (m->divides_rows) {
            float factor = (float)(1.0 / sqrt(norms[h]));
            for (size_t v = 0; v < V; v++) y[v] = y[v] * factor;
        }
        rms_norm(y, y, NULL, V, m->epsilon);
    }
}

static void retention(Session *s, const float *x, const Block *block, uint8_t *memory) {
    const Model *m = s->model;
    const Kernels *k = m->kernels;
    size_t H = m->num_heads, K = m->key_width, V = m->value_width;
    double *norms = (double *)memory;
    float key_scale = (float)(1 / sqrt((double)K)), *kept = s->scratch, *y = s->branch;
    project(s, x, block);
    rotate(s, s->query);
    for (size_t i = 0; i < H * K; i++) s->key[i] = s->key[i] * key_scale;
    rotate(s, s->key);
    if (m->is_gated) {
        multiply(s, s->branch, x, &block->decay_gate);
        sigmoids(k, kept, s->branch, H);
        for (size_t h = 0; h < H; h++)
            for (int i = 0; i < 4; i++) kept[h] = sqrtf(kept[h]); /* the sixteenth root */
    } else {
        for (size_t h = 0; h < H; h++) {
            kept[h] = (float)block->decay[h];
            norms[h] = block->decay[h] * norms[h] + 1.0;
        }
    }
    Job job = {recall_part, H, norms, NULL, y};
    s->jobs[0] = job;
    run(s, 1);
    silus(k, s->value, s->gate, H * V);
    for (size_t i = 0; i < H * V; i++) s->value[i] = s->value[i] * y[i];
    if (m->sub_norm && !m->normalizes_input) rms_norm(s->value, s->value, NULL, H * V, m->epsilon);
    multiply(s, s->branch, s->value, &block->out);
}

static void attention(Session *s, const float *x, const Block *block, uint8_t *memory, int64_t position) {
    const Model *m = s->model;
    size_t H = m->num_heads, K = m->key_width, V = m->value_width, S = s->max_length, length = (size_t)position + 1;
    float *keys = (float *)memory, *values = keys + S * H * K;
    float query_scale = (float)(1 / sqrt((double)K));
    project(s, x, block);
    rotate(s, s->query);
    rotate(s, s->key);
    memcpy(keys + (size_t)position * H * K, s->key, H * K * sizeof(float));
    memcpy(values + (size_t)position * H * V, s->value, H * V * sizeof(float));
    for (size_t h = 0; h < H; h++) {
        for (size_t p = 0; p < length; p++) {
            float score = 0.0f;
            for (size_t i = 0; i < K; i++) score = score + s->query[h * K + i] * keys[(p * H + h) * K + i];
            s->scores[p] = score * query_scale;
        }
        softmax(m->kernels, s->scores, length);
        float *y = s->gate + h * V;
        for (size_t v = 0; v < V; v++) y[v] = 0.0f;
        for (size_t p = 0; p < length; p++)
            for (size_t v = 0; v < V; v++) y[v] = y[v] + s->scores[p] * values[(p * H + h) * V + v];
    }
    multiply(s, s->branch, s->gate, &block->out);
}

static void add_branch(Session *s, const float *scale) {
    const Model *m = s->model;
    size_t D = m->d_model;
    if (!m->is_deepnorm) {
        for (size_t d = 0; d < D; d++) s->x[d] = s->x[d] + s->branch[d];
        return;
    }
    for (size_t d = 0; d < D; d++) s->x[d] = m->alpha * s->x[d] + s->branch[d];
    rms_norm(s->x, s->x, scale, D, m->epsilon);
}

static void read_stream(Session *s, const float *scale) {
    const Model *m = s->model;
    if (scale && !m->is_deepnorm) rms_norm(s->read, s->x, scale, m->d_model, m->epsilon);
    else memcpy(s->read, s->x, m->d_model * sizeof(float));
}

static void embed(const Session *s, float *row, size_t token) { /* row [D] has room for whole lanes */
    const Model *m = s->model;
    size_t D = m->d_model;
    for (size_t d = 0; d < D; d++) {
        size_t at = place(&m->embedding, d, token);
        row[d] = m->embedding_scales ? (float)((int8_t *)m->embedding.data)[at] * m->embedding_scales[token]
                                     : ((float *)m->embedding.data)[at];
    }
    for (size_t i = 0; i < s->num_beside; i++) {
        const LowRank *low = &s->beside[i].adapter->of[EMBEDDING];
        for (size_t k = 0; k < low->rank; k += RANKS) {
            float z[RANKS];
            for (size_t j = 0; j < RANKS; j++) z[j] = low->A[(k + j) * low->stride + token];
            add_ranks(m, row, low, k, z, s->beside[i].weight, 0, whole(D, LANES) / LANES);
        }
    }
    for (size_t d = 0; d < D && m->embedding_scale != 1.0f; d++) row[d] = row[d] * m->embedding_scale;
}

static void head_part(Session *s, const Job *job, size_t begin, size_t end) {
    const Model *m = s->model;
    float *y = job->y + begin * LANES;
    memset(y, 0, (end - begin) * LANES * sizeof(float));
    add_rows(m, y, &m->head, s->all_rows, job->input->x, m->d_model, 1.0f, begin, end);
    if (m->head_scales)
        for (size_t i = 0; i < (end - begin) * LANES; i++) y[i] = y[i] * m->head_scales[begin * LANES + i];
    add_low_ranks(s, y, HEAD, job->input->x, m->d_model, begin, end);
}

/* Reads a token; the logits of the next one are mk_logits afterwards. 0 for a token that there is not, or where an
   attention's cache is full. */
int mk_step(Session *s, int64_t token) {
    const Model *m = s->model;
    size_t D = m->d_model, P = m->key_width / 2, bytes = layer_bytes(m, s->max_length);
    int64_t *position = (int64_t *)s->memory, *previous = position + 1;
    if (token < 0 || (size_t)token >= m->vocab_size || (!m->is_retention && (size_t)*position >= s->max_length)) return 0;
    embed(s, s->x, (size_t)token);
    for (size_t i = 1; i <= m->num_earlier && (int64_t)i <= *position; i++) { /* the last ones come first in memory */
        size_t earlier = (size_t)previous[i - 1];
        if (earlier >= m->vocab_size) return 0;
        embed(s, s->read, earlier);
        for (size_t d = 0; d < D; d++) s->x[d] = s->x[d] + s->read[d] * m->convolution[(i - 1) * whole(D, LANES) + d];
    }
    for (size_t i = 0; i < P; i++) cos_and_sin(m->turns[i] * (double)*position, &s->turns[i], &s->turns[P + i]);
    uint8_t *memory = (uint8_t *)(previous + m->num_earlier);
    for (size_t layer = 0; layer < m->num_layers; layer++, memory += bytes) {
        const Block *block = &m->blocks[layer];
        read_stream(s, block->mixer_norm);
        if (m->is_retention) retention(s, s->read, block, memory);
        else attention(s, s->read, block, memory, *position);
        add_branch(s, block->mixer_norm);
        read_stream(s, block->ffn_norm);
        if (block->routed) mixture(s, s->read, block);
        else dense(s, s->read, block);
        add_branch(s, block->ffn_norm);
    }
    const float *h = s->x;
    if (m->final_norm) {
        rms_norm(s->read, s->x, m->final_norm, D, m->epsilon);
        h = s->read;
    }
    s->input.x = h;
    Job job = {head_part, whole(m->vocab_size, LANES) / LANES, NULL, &s->input, s->logits};
    s->jobs[0] = job;
    run(s, 1);
    for (size_t i = m->num_earlier; i > 1; i--) previous[i - 1] = previous[i - 2];
    if (m->num_earlier) previous[0] = token;
    *position += 1;
    return 1;
}

/* --- drawing: sampling.py ---------------------------------------------------------------------------------------- */

static void threefry(uint32_t *x, uint32_t *y, uint32_t k0, uint32_t k1) {
    static const int ROTATIONS[2][4] = {{13, 15, 26, 6}, {17, 29, 16, 24}};
    uint32_t keys[3] = {k0, k1, k0 ^ k1 ^ 0x1BD11BDA};
    *x += k0, *y += k1;
    for (uint32_t turn = 0; turn < 5; turn++) {
        for (int i = 0; i < 4; i++) {
            int r = ROTATIONS[turn % 2][i];
            *x += *y;
            *y = (*y << r | *y >> (32 - r)) ^ *x;
        }
        *x += keys[(turn + 1) % 3], *y += keys[(turn + 2) % 3] + turn + 1;
    }
}

static float uniform(uint64_t seed, uint32_t index) {
    uint32_t k0 = 0, k1 = index, x = 0, y = 0, bits;
    float value;
    threefry(&k0, &k1, (uint32_t)(seed >> 32), (uint32_t)seed);
    threefry(&x, &y, k0, k1);
    bits = (x ^ y) >> 9 | 0x3F800000;
    memcpy(&value, &bits, 4);
    return value - 1.0f;
}

static int comes_later(const float *weights, size_t a, size_t b) { /* heaviest first, then by number */
    return weights[a] < weights[b] || (weights[a] == weights[b] && a > b);
}

static void sift(size_t *order, const float *weights, size_t root, size_t n) {
    for (size_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && comes_later(weights, order[child + 1], order[child])) child++;
        if (!comes_later(weights, order[child], order[root])) return;
        size_t held = order[root];
        order[root] = order[child], order[child] = held;
    }
}

static void sort(size_t *order, const float *weights, size_t n) {
    for (size_t i = 0; i < n; i++) order[i] = i;
    for (size_t i = n / 2; i-- > 0;) sift(order, weights, i, n);
    for (size_t i = n; i-- > 1;) {
        size_t held = order[0];
        order[0] = order[i], order[i] = held;
        sift(order, weights, 0, i);
    }
}

/* The next token, of the logits behind the last one; temperature 0 takes the most likely one, top_k 0, top_p 1, min_p 0
   and penalty 1 keep all as it is. seen has a byte for each token, not 0 where the penalty is for it; or is NULL. */
size_t mk_draw(Session *s, float temperature, size_t top_k, double top_p, double min_p, float penalty,
               const uint8_t *seen, uint64_t seed, uint32_t index) {
    const Model *m = s->model;
    size_t W = m->vocab_size, best = 0, last = 0;
    float *weights = s->weights;
    for (size_t w = 0; w < W; w++) {
        float logit = s->logits[w];
        if (seen && seen[w] && penalty != 1.0f) logit = logit > 0.0f ? logit / penalty : logit * penalty;
        weights[w] = logit;
        if (logit > weights[best]) best = w;
    }
    if (temperature == 0.0f) return best;
    float most = weights[best];
    for (size_t w = 0; w < whole(W, LANES); w++) weights[w] = w < W ? (weights[w] - most) / temperature : 0.0f;
    m->kernels->exps(weights, weights, whole(W, LANES));
    if ((top_k && top_k < W) || top_p < 1) sort(s->order, weights, W);
    if (top_k && top_k < W) {
        float least = weights[s->order[top_k - 1]];
        for (size_t w = 0; w < W; w++)
            if (weights[w] < least) weights[w] = 0.0f;
    }
    double sum = 0, reach = 0;
    if (top_p < 1) {
        for (size_t i = 0; i < W; i++) sum += weights[s->order[i]];
        for (size_t i = 0; i < W; i++) {
            float weight = weights[s->order[i]];
            if (reach >= top_p * sum) weights[s->order[i]] = 0.0f;
            reach += weight;
        }
        sum = 0, reach = 0;
    }
    for (size_t w = 0; w < W; w++) {
        if (weights[w] < min_p) weights[w] = 0.0f;
        sum += weights[w];
    }
    double place = (double)uniform(seed, index) * sum;
    for (size_t w = 0; w < W; w++) {
        reach += weights[w];
        if (weights[w] > 0) last = w;
        if (reach > place) return w;
    }
    return last;
}

#else /* --- the inner loops, read once for each kind of processor ----------------------------------------------- */

/* The sums of a few groups of outputs, whose number is known to the compiler, so that they stay in registers. INNER adds
   a times a row of w, which has `share` numbers in one of `type`. */
#define SUMS(name, type, share, INNER)                                                                               \
    TARGET INLINE void NAME(name##_of)(const size_t n, float *restrict y, const type *restrict w, size_t stride,     \
                                       const uint32_t *rows, const float *values, size_t count, float scale) {       \
        Group sum[GROUPS];                                                                                           \
        memcpy(sum, y, n * sizeof *sum);                                                                             \
        for (size_t i = 0; i < count; i++) {                                                                         \
            const type *row = w + rows[i] * (stride / (share));                                                      \
            const float a = values[i] * scale;                                                                       \
            INNER                                                                                                    \
        }                                                                                                            \
        memcpy(y, sum, n * sizeof *sum);                                                                             \
    }                                                                                                                \
    TARGET static void NAME(name)(float *y, size_t groups, const void *w, size_t stride, const uint32_t *rows,       \
                                  const float *values, size_t count, float scale) {                                  \
        for (size_t n; groups; groups -= n, y += n * LANES, w = (const type *)w + n * LANES / (share)) {             \
            n = groups < GROUPS ? groups : GROUPS;                                                                   \
            switch (n) { CASES(NAME(name##_of)) }                                                                    \
        }                                                                                                            \
    }
#define CASE(n, of)                                             \
    case n:                                                     \
        of(n, y, w, stride, rows, values, count, scale); \
        break;

TARGET INLINE int32_t NAME(four)(const void *p) { /* bytes as they lie */
    int32_t bytes;
    memcpy(&bytes, p, 4);
    return bytes;
}

#ifdef MK_AVX2
#define GROUPS 8
#define Group __m256
#define CASES(of) CASE(1, of) CASE(2, of) CASE(3, of) CASE(4, of) CASE(5, of) CASE(6, of) CASE(7, of) CASE(8, of)
#define ADD(all, product) \
    const __m256 by = all; \
    for (size_t j = 0; j < n; j++) sum[j] = _mm256_add_ps(sum[j], product);
#define ADD_PRODUCT(sum, a, b) sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_loadu_ps(a), _mm256_loadu_ps(b)));
#define ADD_SCALED(sum, a, b) sum = _mm256_add_ps(sum, _mm256_mul_ps(_mm256_set1_ps(a), _mm256_loadu_ps(b)));
SUMS(sums, float, 1, ADD(_mm256_set1_ps(a), _mm256_mul_ps(by, _mm256_loadu_ps(row + j * LANES))))
SUMS(sums8, int8_t, 1,
     ADD(_mm256_set1_ps(a), _mm256_mul_ps(by, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(
                                                  _mm_loadl_epi64((const __m128i *)(row + j * LANES)))))))
/* 2 bits choose among the products of a and each code */
SUMS(sums2, uint8_t, 4,
     ADD(_mm256_mul_ps(_mm256_set1_ps(a), _mm256_setr_ps(-1, 0, 1, 2, -1, 0, 1, 2)),
         _mm256_permutevar_ps(by, _mm256_srlv_epi32(_mm256_set1_epi32(NAME(four)(row + j / 2 * 4)),
                                                    j % 2 ? _mm256_setr_epi32(16, 18, 20, 22, 24, 26, 28, 30)
                                                          : _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14)))))
#undef ADD
#else
#define GROUPS 4
#define Group NAME(Group)
typedef struct {
    float lane[LANES];
} Group;
#define CASES(of) CASE(1, of) CASE(2, of) CASE(3, of) CASE(4, of)
#define ADD(code)                                     \
    UNROLL for (size_t j = 0; j < n; j++)             \
        UNROLL for (size_t i_ = 0; i_ < LANES; i_++)  \
            sum[j].lane[i_] = sum[j].lane[i_] + a * (code);
#define ADD_PRODUCT(sum, a, b) \
    UNROLL for (size_t i_ = 0; i_ < LANES; i_++) (sum).lane[i_] = (sum).lane[i_] + (a)[i_] * (b)[i_];
#define ADD_SCALED(sum, a, b) \
    UNROLL for (size_t i_ = 0; i_ < LANES; i_++) (sum).lane[i_] = (sum).lane[i_] + (a) * (b)[i_];
SUMS(sums, float, 1, ADD(row[j * LANES + i_]))
SUMS(sums8, int8_t, 1, ADD((float)row[j * LANES + i_]))
SUMS(sums2, uint8_t, 4, ADD(CODES_OF_BYTE[row[j * 2 + i_ / 4]][i_ % 4]))
#undef ADD
#endif

TARGET static void NAME(totals)(float *restrict z, const float *restrict x, size_t n, const float *restrict A,
                                size_t stride) {
    Group sum[RANKS];
    memset(sum, 0, sizeof sum);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        UNROLL for (size_t k = 0; k < RANKS; k++) ADD_PRODUCT(sum[k], x + i, A + k * stride + i)
    for (size_t k = 0; k < RANKS; k++) {
        float lane[LANES];
        memcpy(lane, &sum[k], sizeof lane);
        for (size_t j = 0; i + j < n; j++) lane[j] += x[i + j] * A[k * stride + i + j];
        z[k] = total_of_lanes(lane);
    }
}

TARGET static void NAME(ranks)(float *restrict y, size_t groups, const float *restrict z, const float *restrict B) {
    for (; groups; groups--, y += LANES) {
        Group sum;
        memcpy(&sum, y, sizeof sum);
        UNROLL for (size_t k = 0; k < RANKS; k++, B += LANES) ADD_SCALED(sum, z[k], B)
        memcpy(y, &sum, sizeof sum);
    }
}
#undef ADD_PRODUCT
#undef ADD_SCALED
#undef GROUPS
#undef Group
#undef CASES
#undef CASE
#undef SUMS

/* Sums of 16 blocks fit in 16 bits: 4 x 16 x 2 products of 2 x 128. */
TARGET static void NAME(dots)(float *restrict y, size_t groups, const uint8_t *restrict w, const int8_t *restrict x,
                              size_t blocks, int32_t sum, float factor) {
    for (; groups; groups--, y += LANES) {
#if defined(MK_AVX2)
        const __m256i ones = _mm256_set1_epi16(1), low = _mm256_set1_epi8(3);
        __m256i all = _mm256_set1_epi32(-sum);
        for (size_t b = 0; b < blocks;) {
            __m256i part = _mm256_setzero_si256();
            for (size_t end = blocks - b < 16 ? blocks : b + 16; b < end; b++, w += BLOCK) {
                __m256i packed = _mm256_loadu_si256((const __m256i *)w);
                for (int r = 0; r < 4; r++) {
                    __m256i code = _mm256_and_si256(_mm256_srli_epi16(packed, 2 * r), low);
                    __m256i input = _mm256_set1_epi32(NAME(four)(x + b * INPUTS + 4 * r));
                    part = _mm256_add_epi16(part, _mm256_maddubs_epi16(code, input));
                }
            }
            all = _mm256_add_epi32(all, _mm256_madd_epi16(part, ones));
        }
        _mm256_storeu_ps(y, _mm256_mul_ps(_mm256_cvtepi32_ps(all), _mm256_set1_ps(factor)));
#elif defined(MK_SSSE3)
        const __m128i ones = _mm_set1_epi16(1), low = _mm_set1_epi8(3);
        __m128i all[2] = {_mm_set1_epi32(-sum), _mm_set1_epi32(-sum)};
        for (size_t b = 0; b < blocks;) {
            __m128i part[2] = {_mm_setzero_si128(), _mm_setzero_si128()};
            for (size_t end = blocks - b < 16 ? blocks : b + 16; b < end; b++, w += BLOCK)
                for (int r = 0; r < 4; r++) {
                    __m128i input = _mm_set1_epi32(NAME(four)(x + b * INPUTS + 4 * r));
                    for (int half = 0; half < 2; half++) {
                        __m128i packed = _mm_loadu_si128((const __m128i *)(w + 16 * half));
                        __m128i code = _mm_and_si128(_mm_srli_epi16(packed, 2 * r), low);
                        part[half] = _mm_add_epi16(part[half], _mm_maddubs_epi16(code, input));
                    }
                }
            for (int half = 0; half < 2; half++) all[half] = _mm_add_epi32(all[half], _mm_madd_epi16(part[half], ones));
        }
        for (int half = 0; half < 2; half++)
            _mm_storeu_ps(y + 4 * half, _mm_mul_ps(_mm_cvtepi32_ps(all[half]), _mm_set1_ps(factor)));
#elif defined(MK_128)
        Int32x4 all[2] = {SPLAT32(-sum), SPLAT32(-sum)};
        for (size_t b = 0; b < blocks;) {
            Int16x8 part[4] = {SPLAT16(0), SPLAT16(0), SPLAT16(0), SPLAT16(0)}; /* of two outputs each */
            for (size_t end = blocks - b < 16 ? blocks : b + 16; b < end; b++, w += BLOCK)
                UNROLL for (int r = 0; r < 4; r++) {
                    Int8x16 input = SPLAT_BYTES(NAME(four)(x + b * INPUTS + 4 * r));
                    for (int half = 0; half < 2; half++) {
                        Int8x16 code = CODES(w + 16 * half, 2 * r);
                        part[2 * half] = ADD_LOW(part[2 * half], code, input);
                        part[2 * half + 1] = ADD_HIGH(part[2 * half + 1], code, input);
                    }
                }
            for (int half = 0; half < 2; half++) all[half] = ADD_FOURS(all[half], part[2 * half], part[2 * half + 1]);
        }
        for (int half = 0; half < 2; half++) {
            int32_t sums[4]; /* ARMv7's vectors of floats round otherwise */
            STORE(sums, all[half]);
            for (size_t i = 0; i < 4; i++) y[4 * half + i] = (float)sums[i] * factor;
        }
#else
        int32_t all[LANES] = {0};
        for (size_t b = 0; b < blocks;) {
            int16_t part[BLOCK] = {0};
            for (size_t end = blocks - b < 16 ? blocks : b + 16; b < end; b++, w += BLOCK)
                for (size_t r = 0; r < 4; r++) {
                    int8_t input[BLOCK];
                    for (size_t i = 0; i < BLOCK; i += 4) memcpy(input + i, x + b * INPUTS + 4 * r, 4);
                    for (size_t i = 0; i < BLOCK; i++)
                        part[i] = (int16_t)(part[i] + (int16_t)((w[i] >> 2 * r & 3) * input[i]));
                }
            for (size_t i = 0; i < BLOCK; i++) all[i / 4] += part[i];
        }
        for (size_t i = 0; i < LANES; i++) y[i] = (float)(all[i] - sum) * factor;
#endif
    }
}

TARGET static float NAME(round)(int8_t *restrict codes, const float *restrict x, size_t n, float largest,
                                int32_t *restrict sum) {
    float lane[LANES] = {0}, most = 1e-5f;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) lane[j] = fabsf(x[i + j]) > lane[j] ? fabsf(x[i + j]) : lane[j];
    for (; i < n; i++) lane[0] = fabsf(x[i]) > lane[0] ? fabsf(x[i]) : lane[0];
    for (size_t j = 0; j < LANES; j++) most = lane[j] > most ? lane[j] : most;
    float scale = most / largest;
    int32_t all = 0;
    for (i = 0; i < n; i++) {
        float code = round_even(x[i] / scale);
        code = code > largest ? largest : code;
        code = code < -largest - 1.0f ? -largest - 1.0f : code;
        codes[i] = (int8_t)(int32_t)code;
        all += codes[i];
    }
    *sum = all;
    return scale;
}

TARGET static void NAME(exps)(float *y, const float *x, size_t n) { /* y may be x */
    for (size_t i = 0; i < n; i++) {
        float held = x[i] < 88.0f ? x[i] : 88.0f;
        held = held > -87.0f ? held : -87.0f;
        float shifted = held * 1.4426950408889634f + 12582912.0f, whole_ = shifted - 12582912.0f;
        float r = held - whole_ * 0.693359375f;
        r = r - whole_ * (float)(0.6931471805599453 - 0.693359375);
        float p = (float)(1.0 / 5040);
        p = p * r + (float)(1.0 / 720);
        p = p * r + (float)(1.0 / 120);
        p = p * r + (float)(1.0 / 24);
        p = p * r + (float)(1.0 / 6);
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        union { float f; int32_t i; } power;
        power.i = (int32_t)((uint32_t)((int32_t)whole_ + 127) << 23);
        y[i] = p * power.f;
    }
}

/* B-splines on equally spaced knots: one bump, shifted. */
TARGET INLINE void NAME(bumps_of)(const int degree, const Grid *g, float *restrict out, float *restrict held,
                                  const float *restrict x, size_t n) {
    const float last = (float)g->num_intervals, margin = g->extrapolation == FADE ? (float)(degree + 1) : 0.0f;
    const float per_unit = (float)(g->num_intervals / g->span), low = g->low, high = g->high;
    for (size_t d = 0; d < n; d++) {
        float at = x[d] == high ? last : (x[d] - low) * per_unit;
        at = at < -margin ? -margin : at;
        held[d] = at > last + margin ? last + margin : at;
    }
    for (int i = 0; i < g->num_basis; i++, out += n) {
        const float centre = (float)(i - (degree - 1) / 2.0), left = (float)i, right = (float)(i + 1);
        const int is_last = i == g->num_intervals - 1;
        for (size_t d = 0; d < n && degree == 0; d++)
            out[d] = (float)(held[d] >= left && (held[d] < right || (is_last && held[d] == right)));
        for (int j = 0; j <= degree / 2 && degree; j++) {
            const float reach = (float)((degree + 1) / 2.0 - j), bump = g->bump[j];
            for (size_t d = 0; d < n; d++) {
                float height = reach - fabsf(held[d] - centre), term;
                term = height = height > 0.0f ? height : 0.0f;
                for (int p = 1; p < degree; p++) term = term * height;
                out[d] = j ? out[d] + bump * term : bump * term;
            }
        }
        for (size_t d = 0; d < n && g->extrapolation == GO_ON; d++) {
            float at = x[d] == high ? last : (x[d] - low) * per_unit;
            float below = at < 0.0f ? at : 0.0f, above = at - last > 0.0f ? at - last : 0.0f;
            out[d] = out[d] + below * g->end_slope[i];
            out[d] = out[d] - above * g->end_slope[g->num_basis - 1 - i];
        }
    }
}

/* held [n] is lost */
TARGET static void NAME(bumps)(const Grid *g, float *out, float *held, const float *x, size_t n) {
    if (g->degree == 3) NAME(bumps_of)(3, g, out, held, x, n); /* as most are: a loop without a loop in it */
    else NAME(bumps_of)(g->degree, g, out, held, x, n);
}

TARGET static void NAME(recall)(float *restrict y, float *restrict memory, const float *restrict value, float kept,
                                float key, float query, size_t n) {
    for (size_t i = 0; i < n; i++) {
        memory[i] = kept * memory[i] + key * value[i];
        y[i] = y[i] + query * memory[i];
    }
}

#endif
