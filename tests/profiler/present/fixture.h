/* Programs that the tests of symbols compile and look into: with known functions, an inline chain
 * across two files, and a build id chosen here. Also the modules of the test's own process.
 */
#ifndef WEFT_TESTS_FIXTURE_H
#define WEFT_TESTS_FIXTURE_H

#include <dlfcn.h>
#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include "tests/check.h"
#include "profiler/present/present.h"

#define UNUSED   __attribute__((unused))
#define BUILD_ID "00112233445566778899aabbccddeeff00112233"

static const char header[] = "static inline __attribute__((always_inline)) int deep(int x)\n"
                             "{\n"
                             "    work(x);\n"
                             "    return x * 3;\n"
                             "}\n";
static const char source[] = "#include <stdio.h>\n"
                             "volatile int sink;\n"
                             "__attribute__((noinline)) void work(int x) { sink += x; }\n"
                             "#include \"deep.h\"\n"
                             "static inline __attribute__((always_inline)) int middle(int x)\n"
                             "{\n"
                             "    int y = deep(x);\n"
                             "    for (int i = 0; i < y; i++)\n"
                             "        y += deep(i) ^ sink;\n"
                             "    return y;\n"
                             "}\n"
                             "static __attribute__((noinline)) int outer(int x)\n"
                             "{\n"
                             "    return middle(x) +\n"
                             "           1;\n"
                             "}\n"
                             "int exported(int a) { return outer(a) + middle(a + 1); }\n"
                             "int main(int argc, char **argv)\n"
                             "{\n"
                             "    (void)argv;\n"
                             "    printf(\"%d\\n\", exported(argc));\n"
                             "    return outer(argc) & 1;\n"
                             "}\n";

static char dir[64];

__attribute__((format(printf, 1, 2))) UNUSED static void run(const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cr_assert_eq(system(text), 0, "%s", text);
}

UNUSED static void put(const char *name, const char *text)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

UNUSED static void setup(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%s/weft-symbol-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    cr_assert_not_null(mkdtemp(dir));
    put("deep.h", header);
    put("prog.c", source);
}

UNUSED static void teardown(void)
{
    run("rm -rf %s", dir);
}

UNUSED static bool have(const char *command)
{
    char text[128];

    snprintf(text, sizeof text, "command -v %s >/dev/null 2>&1", command);
    return system(text) == 0;
}

UNUSED static pf_module module_for(const char *path, const char *id)
{
    pf_module m = {.start = 0x1000, .limit = 0x100000, .offset = 0x1000, .path = path};

    snprintf(m.build_id, sizeof m.build_id, "%s", id);
    return m;
}

/* One symbol's address in the program, by nm. */
UNUSED static unsigned long address_of(const char *prog, const char *symbol)
{
    char command[512];
    unsigned long at = 0;
    FILE *f;

    snprintf(command, sizeof command,
             "{ nm %s; nm -D %s; } 2>/dev/null | awk '$3 == \"%s\" {print $1; exit}'", prog, prog,
             symbol);
    f = popen(command, "r");
    cr_assert_not_null(f);
    cr_assert_eq(fscanf(f, "%lx", &at), 1, "%s", symbol);
    pclose(f);
    return at;
}

UNUSED static const char *name_at(const pf_module *m, uintptr_t at, bool *named)
{
    static char text[256];

    pf_symbols_begin();
    const pf_place *p = pf_symbol_find(m, at);
    snprintf(text, sizeof text, "%s", p->frames[p->nframes - 1].name);
    if (named)
        *named = p->named;
    pf_symbols_end();
    return text;
}

/* ---- this process ---- */

struct find {
    uintptr_t at;
    pf_module m;
    bool found;
};

UNUSED static int find_module(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct find *f = arg;
    static const char digits[] = "0123456789abcdef";

    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        uintptr_t lo = info->dlpi_addr + ph->p_vaddr;
        if (ph->p_type == PT_LOAD && (ph->p_flags & PF_X) && f->at >= lo &&
            f->at < lo + ph->p_memsz) {
            f->found = true;
            f->m.start = lo;
            f->m.limit = lo + ph->p_memsz;
            f->m.offset = ph->p_offset;
            f->m.bias = info->dlpi_addr;
        }
    }
    for (int i = 0; f->found && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        const unsigned char *note = (const unsigned char *)(info->dlpi_addr + ph->p_vaddr);
        if (ph->p_type != PT_NOTE)
            continue;
        for (const unsigned char *p = note; p < note + ph->p_memsz;) {
            const ElfW(Nhdr) *h = (const void *)p;
            const unsigned char *desc = p + sizeof *h + ((h->n_namesz + 3u) & ~3u);
            if (h->n_type == NT_GNU_BUILD_ID)
                for (unsigned k = 0; k < h->n_descsz && k < 32; k++) {
                    f->m.build_id[2 * k] = digits[desc[k] >> 4];
                    f->m.build_id[2 * k + 1] = digits[desc[k] & 15];
                }
            p = desc + ((h->n_descsz + 3u) & ~3u);
        }
    }
    return f->found;
}

UNUSED static pf_module module_at(const void *at)
{
    struct find f = {.at = (uintptr_t)at, .m.path = "/proc/self/exe"};

    dl_iterate_phdr(find_module, &f);
    cr_assert(f.found);
    return f.m;
}

#endif
