/* Loads damaged copies of a model's file, or of an adapter's, and runs a few tokens of those that are still taken for one.

   cc -g -O1 -std=c99 -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover -o fuzz tests/run/fuzz.c -lm
   ./fuzz model.safetensors SECONDS [SEED [adapter.safetensors]] */

#include "../../mixkabrn_run/runtime.c"

#include <stdio.h>
#include <time.h>

static uint64_t random_state;

static uint64_t draw(uint64_t bound) {
    random_state += 0x9E3779B97F4A7C15u;
    uint64_t x = random_state;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
    x = (x ^ x >> 27) * 0x94D049BB133111EBu;
    return (x ^ x >> 31) % bound;
}

static size_t read_file(const char *path, uint8_t *content, size_t room) {
    FILE *in = fopen(path, "rb");
    if (!in) exit((fprintf(stderr, "%s: it cannot be read\n", path), 2));
    size_t size = fread(content, 1, room, in);
    fclose(in);
    return size;
}

/* A copy of its own size, so that a read beyond it is seen. */
static uint8_t *damaged(const uint8_t *content, size_t size, size_t *cut) {
    size_t header = 8 + content[0] + 256 * (size_t)content[1];
    *cut = draw(8) ? size : draw(size + 1);
    uint8_t *copy = malloc(*cut + 1);
    memcpy(copy, content, *cut);
    for (uint64_t n = draw(6); n && *cut; n--) {
        size_t at = draw(4) ? draw(*cut < header ? *cut : header) : draw(*cut); /* mostly where sizes are */
        switch (draw(4)) {
            case 0: copy[at] ^= (uint8_t)(1u << draw(8)); break;
            case 1: copy[at] = (uint8_t)"0123456789-.eE,:[]{}\"\\ "[draw(23)]; break;
            case 2: copy[at] = (uint8_t)draw(256); break;
            default: { /* a piece of it moves */
                size_t from = draw(*cut), count = draw(16);
                for (size_t i = 0; i < count && at + i < *cut && from + i < *cut; i++) copy[at + i] = copy[from + i];
            }
        }
    }
    return copy;
}

static void step(const Model *m, const Adapter *a) {
    Session *s = mk_new(m, 8);
    if (s && a) mk_adapt(s, a, 0.5f);
    for (int i = 0; s && i < 4; i++) mk_step(s, (int64_t)draw(mk_vocab_size(m) + 2) - 1);
    mk_end(s);
}

int main(int argc, char **argv) {
    if (argc < 3) return fputs("usage: fuzz model.safetensors SECONDS [SEED [adapter.safetensors]]\n", stderr), 2;
    static uint8_t content[1 << 22], beside[1 << 22];
    size_t size = read_file(argv[1], content, sizeof content), size_beside = 0, cut;
    char error[256];
    time_t end = time(NULL) + atoi(argv[2]);
    random_state = argc > 3 ? (uint64_t)atoi(argv[3]) : 0;
    Model *whole_model = NULL;
    if (argc > 4) {
        size_beside = read_file(argv[4], beside, sizeof beside);
        whole_model = mk_load(content, size, NULL, 1, error);
        if (!whole_model) return puts(error), 2;
    }
    long tried = 0, loaded = 0;
    while (time(NULL) < end) {
        uint8_t *copy = whole_model ? damaged(beside, size_beside, &cut) : damaged(content, size, &cut);
        int checks_hash = draw(8) == 0;
        Model *m = whole_model ? whole_model : mk_load(copy, cut, NULL, checks_hash, error);
        Adapter *a = whole_model ? mk_adapter(m, copy, cut, checks_hash, error) : NULL;
        free(copy);
        tried++;
        if (whole_model ? a != NULL : m != NULL) loaded++, step(m, a);
        else if (!*error || strlen(error) > 255) return printf("no sentence\n"), 1;
        mk_drop(a);
        if (!whole_model) mk_free(m);
    }
    mk_free(whole_model);
    printf("%ld files, %ld of them loaded and run\n", tried, loaded);
    return 0;
}
