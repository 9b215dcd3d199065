/* Continues a prompt, on a computer without Python.

   cc -O3 -std=c99 -ffp-contract=off -o mixkabrn main.c -lm
   ./mixkabrn model.safetensors "My fellow citizens" [MAX_TOKENS [TEMPERATURE [SEED [TOP_K [TOP_P [MIN_P [PENALTY]]]]]]]

   Adapters (docs/adapters.md) go anywhere among these: --adapter=FILE, or --adapter=FILE:WEIGHT, once for each.

   The text is that of `python -m mixkabrn_run complete` with the same seed. Of letters outside ASCII the program knows
   white space and punctuation only: a prompt in rare signs may be cut into other tokens than Python cuts it into. */

#include "runtime.c"

#include <stdio.h>

/* --- what zlib has compressed (RFC 1950, RFC 1951) --------------------------------------------------------------- */

typedef struct {
    const uint8_t *in;
    size_t size, at;
    uint32_t bits;
    int num_bits, is_short; /* is_short: more was asked for than there is */
    uint8_t *out;
    size_t room, length;
} Inflater;

static uint32_t take_bits(Inflater *z, int n) {
    while (z->num_bits < n) {
        if (z->at == z->size) return z->is_short = 1, 0;
        z->bits |= (uint32_t)z->in[z->at++] << z->num_bits;
        z->num_bits += 8;
    }
    uint32_t value = z->bits & ((1u << n) - 1);
    z->bits >>= n, z->num_bits -= n;
    return value;
}

typedef struct {
    uint16_t count[16], symbol[288];
} Code;

static int make_code(Code *code, const uint8_t *lengths, int n) {
    uint16_t first[16];
    int left = 1;
    memset(code->count, 0, sizeof code->count);
    for (int i = 0; i < n; i++) code->count[lengths[i]]++;
    code->count[0] = 0;
    for (int i = 1; i < 16; i++) {
        left = 2 * left - code->count[i];
        if (left < 0) return 0;
    }
    first[1] = 0;
    for (int i = 1; i < 15; i++) first[i + 1] = (uint16_t)(first[i] + code->count[i]);
    for (int i = 0; i < n; i++)
        if (lengths[i]) code->symbol[first[lengths[i]]++] = (uint16_t)i;
    return 1;
}

static int next_symbol(Inflater *z, const Code *code) {
    int value = 0, first = 0, index = 0;
    for (int i = 1; i < 16 && !z->is_short; i++) {
        value |= (int)take_bits(z, 1);
        if (value - first < code->count[i]) return code->symbol[index + value - first];
        index += code->count[i];
        first = (first + code->count[i]) << 1;
        value <<= 1;
    }
    return -1;
}

static int put(Inflater *z, uint8_t byte) {
    if (z->length == z->room) {
        size_t room = z->room ? 2 * z->room : 1 << 16;
        uint8_t *grown = room > (size_t)1 << 28 ? NULL : realloc(z->out, room);
        if (!grown) return 0;
        z->out = grown, z->room = room;
    }
    z->out[z->length++] = byte;
    return 1;
}

static int inflate_block(Inflater *z, const Code *literals, const Code *distances) {
    static const uint16_t LENGTH[] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23, 27,
                                      31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint16_t DISTANCE[] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,   33,   49,   65,    97,    129,
                                        193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577};
    for (;;) {
        int symbol = next_symbol(z, literals);
        if (symbol < 0 || symbol > 285) return 0;
        if (symbol == 256) return 1;
        if (symbol < 256) {
            if (!put(z, (uint8_t)symbol)) return 0;
            continue;
        }
        symbol -= 257;
        size_t length = LENGTH[symbol] + take_bits(z, symbol < 8 || symbol == 28 ? 0 : (symbol - 4) / 4);
        symbol = next_symbol(z, distances);
        if (symbol < 0 || symbol > 29) return 0;
        size_t distance = DISTANCE[symbol] + take_bits(z, symbol < 4 ? 0 : symbol / 2 - 1);
        if (z->is_short || distance > z->length) return 0;
        while (length--)
            if (!put(z, z->out[z->length - distance])) return 0;
    }
}

static int inflate(Inflater *z) {
    static const uint8_t ORDER[] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    if (z->size < 2 || (z->in[0] & 15) != 8 || (z->in[0] * 256 + z->in[1]) % 31 || z->in[1] & 32) return 0;
    z->at = 2;
    for (int last = 0; !last;) {
        uint8_t lengths[320] = {0};
        Code literals, distances;
        last = (int)take_bits(z, 1);
        uint32_t kind = take_bits(z, 2);
        if (z->is_short || kind == 3) return 0;
        if (kind == 0) {
            z->bits = 0, z->num_bits = 0;
            uint32_t n = take_bits(z, 16), complement = take_bits(z, 16);
            if (z->is_short || n != (complement ^ 0xffff) || z->at + n > z->size) return 0;
            while (n--)
                if (!put(z, z->in[z->at++])) return 0;
            continue;
        }
        if (kind == 1) {
            for (int i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
            make_code(&literals, lengths, 288);
            memset(lengths, 5, 30);
            make_code(&distances, lengths, 30);
        } else {
            int num_literals = (int)take_bits(z, 5) + 257, num_distances = (int)take_bits(z, 5) + 1;
            int num_lengths = (int)take_bits(z, 4) + 4;
            if (num_literals > 286 || num_distances > 30) return 0;
            for (int i = 0; i < num_lengths; i++) lengths[ORDER[i]] = (uint8_t)take_bits(z, 3);
            if (!make_code(&literals, lengths, 19)) return 0;
            memset(lengths, 0, sizeof lengths);
            for (int i = 0; i < num_literals + num_distances;) {
                int symbol = next_symbol(z, &literals), times = 1;
                uint8_t value = (uint8_t)symbol;
                if (symbol < 0) return 0;
                if (symbol > 15) {
                    if (symbol == 16 && !i) return 0;
                    value = symbol == 16 ? lengths[i - 1] : 0;
                    times = symbol == 16 ? 3 + (int)take_bits(z, 2) : symbol == 17 ? 3 + (int)take_bits(z, 3)
                                                                                   : 11 + (int)take_bits(z, 7);
                }
                if (z->is_short || i + times > num_literals + num_distances) return 0;
                while (times--) lengths[i++] = value;
            }
            if (!make_code(&distances, lengths + num_literals, num_distances) ||
                !make_code(&literals, lengths, num_literals))
                return 0;
        }
        if (!inflate_block(z, &literals, &distances)) return 0;
    }
    return !z->is_short;
}

/* --- tokens ------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t *bytes;
    size_t size;
} Piece;

typedef struct {
    Piece *pieces;
    size_t num_pieces;
    Piece (*merges)[2]; /* in the order they were learnt */
    size_t num_merges;
    int is_pairs;
} Tokenizer;

static size_t next_character(const char **p, const char *end) { /* of UTF-8; what is none stands for itself */
    const uint8_t *s = (const uint8_t *)*p;
    int more = s[0] >= 0xF0 ? 3 : s[0] >= 0xE0 ? 2 : s[0] >= 0xC0 ? 1 : 0;
    if (end - *p <= more) more = 0;
    size_t value = more ? s[0] & (0x3F >> more) : s[0];
    for (int i = 1; i <= more; i++) value = value << 6 | (s[i] & 0x3F);
    *p += more + 1;
    return value;
}

/* A text of JSON as UTF-8, with its escapes resolved. */
static Piece json_text(Text t) {
    Piece out = {malloc((size_t)(t.end - t.p) + 4), 0};
    if (!out.bytes) return out;
    for (const char *p = t.p + 1; p < t.end - 1; p++) {
        if (*p != '\\') {
            out.bytes[out.size++] = (uint8_t)*p;
            continue;
        }
        p++;
        if (*p != 'u') {
            const char *from = "bfnrt", *to = "\b\f\n\r\t", *found = *p ? strchr(from, *p) : NULL;
            out.bytes[out.size++] = (uint8_t)(found ? to[found - from] : *p);
            continue;
        }
        unsigned value = 0;
        for (int i = 1; i <= 4 && p + i < t.end; i++)
            value = value << 4 | (unsigned)(p[i] <= '9' ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
        p += 4;
        if (value < 0x80) {
            out.bytes[out.size++] = (uint8_t)value;
        } else if (value < 0x800) {
            out.bytes[out.size++] = (uint8_t)(0xC0 | value >> 6);
            out.bytes[out.size++] = (uint8_t)(0x80 | (value & 0x3F));
        } else {
            out.bytes[out.size++] = (uint8_t)(0xE0 | (value >> 12 & 15));
            out.bytes[out.size++] = (uint8_t)(0x80 | (value >> 6 & 0x3F));
            out.bytes[out.size++] = (uint8_t)(0x80 | (value & 0x3F));
        }
    }
    return out;
}

static int prints(unsigned byte) { return (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD); }

/* GPT-2's alphabet: bytes that print are their own character, the others those from U+0100 on. */
static Piece piece_of(const uint8_t *text, size_t size) {
    Piece out = {malloc(size + 1), 0};
    const char *p = (const char *)text, *end = p + size;
    while (out.bytes && p < end) {
        size_t character = next_character(&p, end);
        if (character >= 256) {
            unsigned byte = 0;
            for (size_t left = character - 256;; byte++)
                if (byte > 255 || (!prints(byte) && !left--)) break;
            character = byte;
        }
        out.bytes[out.size++] = (uint8_t)character;
    }
    return out;
}

static int next_element(Text *array, Text *value) {
    skip_space(array);
    if (array->p < array->end && (*array->p == '[' || *array->p == ',')) array->p++;
    skip_space(array);
    if (array->p >= array->end || *array->p == ']') return 0;
    value->p = array->p;
    if (!skip_value(array)) return 0;
    value->end = array->p;
    return 1;
}

static int read_tokenizer(Tokenizer *t, Text record) {
    Text name, characters, tokenizer, model, vocabulary, merges, key, value;
    memset(t, 0, sizeof *t);
    if (!find(record, "name", &name)) return 0;
    if (text_is(name, "\"bytes\"")) {
        t->num_pieces = 256;
        if (!(t->pieces = calloc(257, sizeof *t->pieces))) return 0;
        for (int i = 0; i < 256; i++) {
            if (!(t->pieces[i].bytes = malloc(1))) return 0;
            t->pieces[i].bytes[0] = (uint8_t)i, t->pieces[i].size = 1;
        }
        return 1;
    }
    if (text_is(name, "\"characters\"") && find(record, "characters", &characters)) {
        Piece all = json_text(characters);
        if (!all.bytes || !(t->pieces = calloc(all.size + 1, sizeof *t->pieces))) return 0;
        for (const char *p = (char *)all.bytes, *end = p + all.size; p < end;) {
            const char *begin = p;
            next_character(&p, end);
            t->pieces[t->num_pieces].bytes = (uint8_t *)begin;
            t->pieces[t->num_pieces++].size = (size_t)(p - begin);
        }
        return 1;
    }
    if (!find(record, "tokenizer", &tokenizer) || !find(tokenizer, "model", &model) ||
        !find(model, "vocab", &vocabulary) || !find(model, "merges", &merges))
        return 0;
    size_t most = (size_t)(vocabulary.end - vocabulary.p), room = (size_t)(merges.end - merges.p) / 6 + 1;
    t->is_pairs = 1;
    t->pieces = calloc(most, sizeof *t->pieces), t->merges = calloc(room, sizeof *t->merges);
    if (!t->pieces || !t->merges) return 0;
    while (next_member(&vocabulary, &key, &value) == 1) {
        double id;
        Text quoted = {key.p - 1, key.end + 1};
        Piece text = json_text(quoted);
        if (!to_number(value, &id) || id < 0 || id >= (double)most || !text.bytes) return 0;
        t->pieces[(size_t)id] = piece_of(text.bytes, text.size);
        if ((size_t)id >= t->num_pieces) t->num_pieces = (size_t)id + 1;
        free(text.bytes);
    }
    for (Text merge, part; next_element(&merges, &merge) && t->num_merges < room; t->num_merges++) {
        Piece *pair = t->merges[t->num_merges];
        if (*merge.p == '[') {
            for (int i = 0; i < 2; i++) {
                if (!next_element(&merge, &part)) return 0;
                Piece text = json_text(part);
                pair[i] = piece_of(text.bytes, text.size);
                free(text.bytes);
            }
        } else {
            Piece text = json_text(merge);
            uint8_t *space = memchr(text.bytes, ' ', text.size);
            if (!space) return 0;
            pair[0] = piece_of(text.bytes, (size_t)(space - text.bytes));
            pair[1] = piece_of(space + 1, text.size - (size_t)(space + 1 - text.bytes));
            free(text.bytes);
        }
    }
    return 1;
}

enum { SPACE, LETTER, NUMBER, SIGN };

static int kind_of(size_t c) {
    if (c == ' ' || (c >= 9 && c <= 13)) return SPACE;
    if ((c | 32) >= 'a' && (c | 32) <= 'z' && c < 128) return LETTER;
    if (c >= '0' && c <= '9') return NUMBER;
    if (c < 128) return SIGN;
    if (c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
        c == 0x202F || c == 0x205F || c == 0x3000)
        return SPACE;
    if (c == 0xB2 || c == 0xB3 || c == 0xB9 || (c >= 0xBC && c <= 0xBE)) return NUMBER;
    if (c == 0xAA || c == 0xB5 || c == 0xBA) return LETTER;
    if (c < 0xC0 || c == 0xD7 || c == 0xF7 || (c >= 0x2010 && c <= 0x2BFF) || (c >= 0x3001 && c <= 0x3004) ||
        (c >= 0x1F000 && c <= 0x1FAFF))
        return SIGN;
    return LETTER;
}

static int same(Piece a, Piece b) { return a.size == b.size && !memcmp(a.bytes, b.bytes, a.size); }

static int64_t id_of(const Tokenizer *t, Piece piece) {
    for (size_t i = 0; i < t->num_pieces; i++)
        if (t->pieces[i].size && same(t->pieces[i], piece)) return (int64_t)i;
    return -1;
}

/* Of two neighbours the pair that was learnt first is joined, until none is left. */
static size_t encode_word(const Tokenizer *t, const uint8_t *word, size_t size, int64_t *out) {
    Piece parts[1024];
    size_t n = 0;
    if (size > 1024) size = 1024;
    for (; n < size; n++) parts[n].bytes = (uint8_t *)word + n, parts[n].size = 1;
    for (;;) {
        size_t best = t->num_merges, at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            for (size_t m = 0; m < best; m++)
                if (same(parts[i], t->merges[m][0]) && same(parts[i + 1], t->merges[m][1])) best = m, at = i;
        if (best == t->num_merges) break;
        parts[at].size += parts[at + 1].size;
        memmove(&parts[at + 1], &parts[at + 2], (n - at - 2) * sizeof *parts);
        n--;
    }
    for (size_t i = 0; i < n; i++) out[i] = id_of(t, parts[i]);
    return n;
}

/* GPT-2's words: letters, digits or signs with a space before them, contractions, runs of white space. */
static size_t encode(const Tokenizer *t, const char *text, int64_t *out) {
    static const char *const CONTRACTIONS[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
    const char *end = text + strlen(text);
    size_t count = 0;
    while (text < end) {
        const char *p = text, *stop;
        size_t contraction = 0;
        if (!t->is_pairs) {
            next_character(&p, end);
            Piece character = {(uint8_t *)text, t->num_pieces == 256 ? 1 : (size_t)(p - text)};
            out[count++] = id_of(t, character);
            text += character.size;
            continue;
        }
        for (int i = 0; i < 7; i++)
            if (!strncmp(text, CONTRACTIONS[i], strlen(CONTRACTIONS[i]))) contraction = strlen(CONTRACTIONS[i]);
        if (contraction) {
            stop = text + contraction;
        } else {
            const char *peek = text + 1;
            if (*text == ' ' && peek < end && kind_of(next_character(&peek, end)) != SPACE) p++;
            int kind = kind_of(next_character(&p, end));
            const char *last = text;
            for (stop = p; p < end && kind_of(next_character(&p, end)) == kind; stop = p) last = stop;
            /* The last space of a run belongs to the word behind it. */
            if (kind == SPACE && stop < end && last > text) stop = last;
        }
        count += encode_word(t, (const uint8_t *)text, (size_t)(stop - text), out + count);
        text = stop;
    }
    return count;
}

static int give_up(const char *path, const char *what) {
    fprintf(stderr, "error: %s: %s\n", path, what);
    return 1;
}

static uint8_t *read_all(const char *path, size_t *size) { /* NULL where that cannot be */
    FILE *in = fopen(path, "rb");
    if (!in) return NULL;
    long length = fseek(in, 0, SEEK_END) ? -1 : ftell(in);
    uint8_t *content = length > 0 ? malloc((size_t)length) : NULL;
    rewind(in);
    if (content && fread(content, 1, (size_t)length, in) != (size_t)length) free(content), content = NULL;
    fclose(in);
    return *size = (size_t)length, content;
}

/* Puts what FILE[:WEIGHT] names beside the session's model; the exit status. */
static int add_adapter(const Model *model, Session *session, char *named) {
    char error[256], *colon = strrchr(named, ':'), *end;
    double weight = 1;
    size_t size;
    uint8_t *content = read_all(named, &size);
    if (!content && colon) {
        weight = strtod(colon + 1, &end);
        if (!colon[1] || *end || !(fabs(weight) <= 3.4e38)) {
            fprintf(stderr, "error: --adapter=%s: '%s' is no weight, and there is no such file\n", named, colon + 1);
            return 2;
        }
        *colon = 0;
        content = read_all(named, &size);
    }
    if (!content) return give_up(named, "it cannot be read");
    Adapter *adapter = mk_adapter(model, content, size, 1, error);
    free(content);
    if (!adapter) return give_up(named, error);
    return mk_adapt(session, adapter, (float)weight) ? 0 : give_up(named, "there is not enough memory");
}

/* An argument as a number within bounds, NAN where it is none. */
static double number(int argc, char **argv, int i, double otherwise, double low, double high) {
    if (i >= argc) return otherwise;
    char *end;
    double value = strtod(argv[i], &end);
    return *argv[i] && !*end && value >= low && value <= high ? value : NAN;
}

int main(int argc, char **argv) {
    static const char OPTION[] = "--adapter=";
    int num_adapters = 0, others = 1;
    char **adapters = malloc((size_t)(argc + 1) * sizeof *adapters);
    for (int i = 1; i < argc && adapters; i++) {
        if (strncmp(argv[i], OPTION, strlen(OPTION))) argv[others++] = argv[i];
        else adapters[num_adapters++] = argv[i] + strlen(OPTION);
    }
    argc = others;
    if (argc < 3) {
        fprintf(stderr, "usage: %s [--adapter=FILE[:WEIGHT]] model.safetensors PROMPT "
                        "[MAX_TOKENS [TEMPERATURE [SEED [TOP_K [TOP_P [MIN_P [PENALTY]]]]]]]\n", argv[0]);
        return 2;
    }
    const char *path = argv[1], *prompt = argv[2];
    static const char *const NAMES[] = {"MAX_TOKENS", "TEMPERATURE", "SEED", "TOP_K", "TOP_P", "MIN_P", "PENALTY"};
    static const double OTHERWISE[] = {200, 0.7, 0, 0, 1, 0, 1}, LOW[] = {0, 0, 0, 0, 1e-9, 0, 0.01},
                        HIGH[] = {1e9, 1e9, 4294967295.0, 1e9, 1, 1, 100};
    double given[7];
    for (int i = 0; i < 7; i++) {
        given[i] = number(argc, argv, i + 3, OTHERWISE[i], LOW[i], HIGH[i]);
        if (isnan(given[i]) || (i == 1 && given[1] > 0 && given[1] < 1e-3)) {
            fprintf(stderr, "error: %s=%s: %g to %g is needed%s\n", NAMES[i], argv[i + 3], LOW[i], HIGH[i],
                    i == 1 ? ", and nothing between 0 and 0.001" : "");
            return 2;
        }
    }
    size_t max_tokens = (size_t)given[0], top_k = (size_t)given[3];
    float temperature = (float)given[1], penalty = (float)given[6]; /* of tokens that were there before */
    uint64_t seed = (uint64_t)given[2];
    double top_p = given[4], min_p = given[5];
    size_t size;
    uint8_t *content = read_all(path, &size);
    if (!content) return give_up(path, "it cannot be read");

    char error[256];
    File file;
    Tokenizer tokenizer;
    Model *model = mk_load(content, size, NULL, 1, error);
    if (!model) return give_up(path, error);
    open_file(&file, content, size, error);
    const Tensor *packed = find_tensor(&file, "tokenizer.json.zlib");
    Inflater z = {0};
    if (packed) z.in = packed->data, z.size = packed->size;
    Text record = {NULL, NULL};
    if (packed && inflate(&z)) record.p = (char *)z.out, record.end = record.p + z.length;
    if (!record.p || !read_tokenizer(&tokenizer, record) || tokenizer.num_pieces + 1 != model->vocab_size)
        return give_up(path, "its tokenizer cannot be read");
    close_file(&file);
    free(content);

    size_t length = strlen(prompt);
    int64_t *tokens = malloc((length + 1) * sizeof *tokens);
    uint8_t *seen = calloc(model->vocab_size, 1);
    Session *session = mk_new(model, length + max_tokens + 2);
    if (!tokens || !seen || !session || !adapters) return give_up(path, "there is not enough memory");
    for (int i = 0, status; i < num_adapters; i++)
        if ((status = add_adapter(model, session, adapters[i]))) return status;
    size_t count = encode(&tokenizer, prompt, tokens), separator = model->vocab_size - 1;
    mk_step(session, (int64_t)separator);
    for (size_t i = 0; i < count; i++) {
        if (!mk_step(session, tokens[i])) return give_up(path, "it has no token for a letter of the prompt");
        seen[tokens[i]] = 1;
    }
    for (size_t i = 0; i < max_tokens; i++) {
        size_t token = mk_draw(session, temperature, top_k, top_p, min_p, penalty, seen, seed, (uint32_t)i);
        if (token == separator) break;
        seen[token] = 1;
        fwrite(tokenizer.pieces[token].bytes, 1, tokenizer.pieces[token].size, stdout);
        fflush(stdout);
        mk_step(session, (int64_t)token);
    }
    putchar('\n');
    mk_end(session);
    mk_free(model);
    return 0;
}
