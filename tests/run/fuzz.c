/* Loads damaged copies of a model's file and runs a few tokens of those that are still taken for one.

   cc -g -O1 -std=c99 -ffp-contract=off -fsanitize=address,undefined -fno-sanitize-recover -o fuzz tests/run/fuzz.c -lm
   ./fuzz model.safetensors SECONDS [SEED] */

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

int main(int argc, char **argv) {
    FILE *in = argc > 2 ? fopen(argv[1], "rb") : NULL;
    if (!in) return fputs("usage: fuzz model.safetensors SECONDS [SEED]\n", stderr), 2;
    static uint8_t whole_file[1 << 22];
    size_t size = fread(whole_file, 1, sizeof whole_file, in), header = 8 + whole_file[0] + 256 * (size_t)whole_file[1];
    time_t end = time(NULL) + atoi(argv[2]);
    random_state = argc > 3 ? (uint64_t)atoi(argv[3]) : 0;
    long tried = 0, loaded = 0;
    while (time(NULL) < end) {
        size_t cut = draw(8) ? size : draw(size + 1);
        uint8_t *copy = malloc(cut + 1); /* of its own size, so that a read beyond it is seen */
        char error[256];
        memcpy(copy, whole_file, cut);
        for (uint64_t n = draw(6); n && cut; n--) {
            size_t at = draw(4) ? draw(cut < header ? cut : header) : draw(cut); /* mostly where sizes are */
            switch (draw(4)) {
                case 0: copy[at] ^= (uint8_t)(1u << draw(8)); break;
                case 1: copy[at] = (uint8_t)"0123456789-.eE,:[]{}\"\\ "[draw(23)]; break;
                case 2: copy[at] = (uint8_t)draw(256); break;
                default: { /* a piece of it moves */
                    size_t from = draw(cut), count = draw(16);
                    for (size_t i = 0; i < count && at + i < cut && from + i < cut; i++) copy[at + i] = copy[from + i];
                }
            }
        }
        Model *m = mk_load(copy, cut, NULL, draw(8) == 0, error);
        free(copy);
        tried++;
        if (!m) {
            if (!*error || strlen(error) > 255) return printf("no sentence\n"), 1;
            continue;
        }
        loaded++;
        Session *s = mk_new(m, 8);
        for (int i = 0; s && i < 4; i++) mk_step(s, (int64_t)draw(mk_vocab_size(m) + 2) - 1);
        mk_end(s);
        mk_free(m);
    }
    printf("%ld files, %ld of them loaded and run\n", tried, loaded);
    return 0;
}
