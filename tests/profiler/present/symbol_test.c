/* Names, files, lines and inline chains, compared with addr2line for every instruction of small
 * programs that are compiled here, by each compiler and DWARF version at hand. The programs carry
 * build ids chosen here, so that a replaced file can be made.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "tests/check.h"
#include "profiler/present/present.h"

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

__attribute__((format(printf, 1, 2))) static void run(const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    cr_assert_eq(system(text), 0, "%s", text);
}

static void put(const char *name, const char *text)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof path, "%s/%s", dir, name);
    f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

static void setup(void)
{
    const char *tmp = getenv("TMPDIR");

    snprintf(dir, sizeof dir, "%s/weft-symbol-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
    cr_assert_not_null(mkdtemp(dir));
    put("deep.h", header);
    put("prog.c", source);
}

static void teardown(void)
{
    run("rm -rf %s", dir);
}

static bool have(const char *command)
{
    char text[128];

    snprintf(text, sizeof text, "command -v %s >/dev/null 2>&1", command);
    return system(text) == 0;
}

static pf_module module_for(const char *path, const char *id)
{
    pf_module m = {.start = 0x1000, .limit = 0x100000, .offset = 0x1000, .path = path};

    snprintf(m.build_id, sizeof m.build_id, "%s", id);
    return m;
}

/* What addr2line prints for one frame, "func" and "path:line", as this code writes it. */
static bool same_frame(const pf_frame *f, const char *func, const char *where)
{
    char expect[4096], clean[4096], *colon, *to = clean;

    snprintf(expect, sizeof expect, "%s", where);
    if ((colon = strstr(expect, " (discriminator")))
        *colon = '\0';
    colon = strrchr(expect, ':');
    cr_assert_not_null(colon);
    *colon = '\0';
    if (!f->name || f->name[0] == '[')
        return true;
    for (const char *p = expect; *p;) {
        if (!strncmp(p, "/./", 3))
            p += 2;
        else
            *to++ = *p++;
    }
    *to = '\0';
    if (strcmp(func, "??") && strcmp(f->name, func))
        return false;
    /* addr2line says "?" for line 0, where the row before is taken here. */
    return colon[1] == '?' || (strcmp(f->file, clean) == 0 && f->line == atoi(colon + 1));
}

static bool next_line(FILE *f, char *line, size_t n)
{
    if (!fgets(line, (int)n, f))
        return false;
    line[strcspn(line, "\n")] = '\0';
    return true;
}

/* Every instruction between two symbols of the program, through one addr2line. */
static int compare_with_addr2line(const char *prog)
{
    char command[512], line[4096], where[4096];
    pf_module m = module_for(prog, BUILD_ID);
    int compared = 0, chains = 0;
    bool more;
    FILE *f;

    snprintf(command, sizeof command,
             "objdump -d --no-show-raw-insn --disassemble-zeroes -j .text %s |"
             " sed -n 's/^ *\\([0-9a-f]*\\):.*/0x\\1/p' | addr2line -fia -e %s",
             prog, prog);
    f = popen(command, "r");
    cr_assert_not_null(f);
    pf_symbols_begin();
    for (more = next_line(f, line, sizeof line); more;) {
        uintptr_t at = strtoul(line, NULL, 16);
        const pf_place *p = pf_symbol_find(&m, at);
        uint32_t i = 0;
        cr_assert(strncmp(line, "0x", 2) == 0, "%s", line);
        while ((more = next_line(f, line, sizeof line)) && strncmp(line, "0x", 2)) {
            cr_assert(next_line(f, where, sizeof where));
            if (!p->debug_info) { /* start files: a symbol, and no line */
                cr_assert(strstr(where, ":?") || strstr(where, "??:0"), "%s", where);
                continue;
            }
            cr_assert_lt(i, p->nframes, "%lx lacks %s %s", at, line, where);
            cr_assert(same_frame(&p->frames[i], line, where), "%lx frame %u: %s %s:%ld, not %s %s",
                      at, i, p->frames[i].name, p->frames[i].file, (long)p->frames[i].line, line,
                      where);
            i++;
        }
        if (i && p->named) { /* addr2line names padding after the function before it */
            cr_assert_eq(i, p->nframes, "%lx has frames that addr2line has not", at);
            cr_assert(p->named && p->debug_info, "%lx %s", at, p->frames[0].name);
            cr_assert_leq(p->entry, at);
            compared++;
            chains += i > 2;
        }
    }
    pf_symbols_end();
    cr_assert_eq(pclose(f), 0);
    cr_assert_gt(chains, 0, "no inline chain of three in %s", prog);
    return compared;
}

static void each_compiler(const char *flags)
{
    static const char *const compilers[] = {"gcc", "clang", "clang-14"};
    char prog[128];
    int tried = 0;

    for (int dwarf = 4; dwarf <= 5; dwarf++)
        for (size_t i = 0; i < 3; i++) {
            if (!have(compilers[i]))
                continue;
            snprintf(prog, sizeof prog, "%s/prog-%s-%d", dir, compilers[i], dwarf);
            run("cd %s && %s -gdwarf-%d %s -Wl,--build-id=0x" BUILD_ID " prog.c -o %s", dir,
                compilers[i], dwarf, flags, prog);
            cr_assert_gt(compare_with_addr2line(prog), 30, "%s", prog);
            tried++;
        }
    cr_assert_geq(tried, 2, "gcc is needed");
}

Test(symbol, optimized, .init = setup, .fini = teardown, .timeout = 120)
{
    each_compiler("-O2");
}

Test(symbol, sections_and_no_pie, .init = setup, .fini = teardown, .timeout = 120)
{
    each_compiler("-O2 -ffunction-sections -Wl,--gc-sections -no-pie");
}

Test(symbol, split_dwarf, .init = setup, .fini = teardown, .timeout = 120)
{
    char prog[128];

    snprintf(prog, sizeof prog, "%s/split", dir);
    run("cd %s && gcc -c -O2 -gdwarf-5 -gsplit-dwarf prog.c -o prog.o && gcc prog.o"
        " -Wl,--build-id=0x" BUILD_ID " -o %s",
        dir, prog);
    /* binutils does not always follow to the .dwo file, so the answers are checked by hand. */
    pf_module m = module_for(prog, BUILD_ID);
    pf_symbols_begin();
    char command[256];
    snprintf(command, sizeof command, "nm %s | sed -n 's/ t outer$//p'", prog);
    FILE *f = popen(command, "r");
    unsigned long at = 0;
    cr_assert_eq(fscanf(f, "%lx", &at), 1);
    pclose(f);
    bool chain = false;
    for (unsigned long v = at; v < at + 24; v++) {
        const pf_place *p = pf_symbol_find(&m, v);
        cr_assert_str_eq(p->frames[p->nframes - 1].name, "outer");
        cr_assert_eq(p->entry, at);
        chain |= p->nframes == 3 && !strcmp(p->frames[0].name, "deep") &&
                 strstr(p->frames[0].file, "deep.h");
    }
    pf_symbols_end();
    cr_assert(chain);
}

/* One symbol's address in the program, by nm. */
static unsigned long address_of(const char *prog, const char *symbol)
{
    char command[256];
    unsigned long at = 0;
    FILE *f;

    snprintf(command, sizeof command, "nm %s; nm -D %s", prog, prog);
    snprintf(command, sizeof command,
             "{ nm %s; nm -D %s; } 2>/dev/null | awk '$3 == \"%s\" {print $1; exit}'", prog, prog,
             symbol);
    f = popen(command, "r");
    cr_assert_not_null(f);
    cr_assert_eq(fscanf(f, "%lx", &at), 1, "%s", symbol);
    pclose(f);
    return at;
}

static const char *name_at(const pf_module *m, uintptr_t at, bool *named)
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

Test(symbol, tables_where_there_is_no_dwarf, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128], lib[128];
    bool named;

    snprintf(prog, sizeof prog, "%s/plain", dir);
    run("cd %s && gcc -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o plain", dir);
    pf_module m = module_for(prog, BUILD_ID);
    unsigned long outer = address_of(prog, "outer");
    cr_assert_str_eq(name_at(&m, outer + 4, &named), "outer");
    cr_assert(named);
    cr_assert_str_eq(name_at(&m, address_of(prog, "main"), NULL), "main");
    cr_assert_str_eq(name_at(&m, address_of(prog, "_start") + 1, NULL), "_start");

    /* A stripped library keeps only what it exports: the address of a static is no export's. */
    snprintf(lib, sizeof lib, "%s/lib.so", dir);
    run("cd %s && gcc -O2 -fPIC -shared prog.c -Wl,--build-id=0x" BUILD_ID " -o lib.so", dir);
    unsigned long hidden = address_of(lib, "outer"), public = address_of(lib, "exported");
    run("strip %s", lib);
    m = module_for(lib, BUILD_ID);
    cr_assert_str_eq(name_at(&m, public + 3, NULL), "exported");
    char expect[64];
    snprintf(expect, sizeof expect, "[lib.so+0x%lx]", hidden + 4);
    cr_assert_str_eq(name_at(&m, hidden + 4, &named), expect);
    cr_assert(!named);
}

Test(symbol, separate_debug_files, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];

    snprintf(prog, sizeof prog, "%s/sep", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o sep && mkdir .debug &&"
        " objcopy --only-keep-debug sep .debug/sep.debug && strip sep &&"
        " objcopy --add-gnu-debuglink=.debug/sep.debug sep",
        dir);
    cr_assert_gt(compare_with_addr2line(prog), 30);

    /* One that belongs to another build is not believed. */
    run("cd %s && gcc -g -O1 prog.c -Wl,--build-id=0x99 -o other &&"
        " objcopy --only-keep-debug other .debug/two.debug && cp sep two &&"
        " objcopy --remove-section=.gnu_debuglink two &&"
        " objcopy --add-gnu-debuglink=.debug/two.debug two",
        dir);
    snprintf(prog, sizeof prog, "%s/two", dir);
    pf_module m = module_for(prog, BUILD_ID);
    bool named;
    name_at(&m, 0x1200, &named);
    cr_assert(!named);
}

Test(symbol, compressed_sections, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];

    snprintf(prog, sizeof prog, "%s/packed", dir);
    run("cd %s && gcc -g -gz=zlib -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o packed", dir);
    cr_assert_gt(compare_with_addr2line(prog), 30);
}

Test(symbol, scopes_of_cxx, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];

    if (!have("g++"))
        return;
    put("scope.cc", "namespace outer_ns { struct Box { static int spin(int); };\n"
                    "__attribute__((noinline)) int Box::spin(int x) { volatile int y = x; "
                    "return y * 2; } }\n"
                    "int main(int c, char **) { return outer_ns::Box::spin(c); }\n");
    snprintf(prog, sizeof prog, "%s/scope", dir);
    run("cd %s && g++ -g -O2 scope.cc -Wl,--build-id=0x" BUILD_ID " -o scope", dir);
    pf_module m = module_for(prog, BUILD_ID);
    pf_symbols_begin();
    const pf_place *p = pf_symbol_find(&m, address_of(prog, "_ZN8outer_ns3Box4spinEi"));
    cr_assert_str_eq(p->frames[0].name, "outer_ns::Box::spin");
    cr_assert_str_eq(p->frames[0].system_name, "_ZN8outer_ns3Box4spinEi");
    pf_symbols_end();
}

Test(symbol, another_build_is_not_believed, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];
    bool named;

    snprintf(prog, sizeof prog, "%s/plain", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o plain", dir);
    unsigned long at = address_of(prog, "outer");
    pf_module right = module_for(prog, BUILD_ID), wrong = module_for(prog, "ff" BUILD_ID),
              none = module_for(prog, ""), gone = module_for("/nowhere/libgone.so (deleted)", "ab");
    cr_assert_str_eq(name_at(&right, at, &named), "outer");
    cr_assert(named);
    name_at(&wrong, at, &named);
    cr_assert(!named);
    name_at(&none, at, &named); /* nothing is mapped from that file here */
    cr_assert(!named);
    cr_assert_str_eq(name_at(&gone, 0x1234, &named), "[libgone.so+0x1234]");
    cr_assert(!named);
}

/* ---- this process ---- */

struct find {
    uintptr_t at;
    pf_module m;
    bool found;
};

static int find_module(struct dl_phdr_info *info, size_t size, void *arg)
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

static pf_module module_at(const void *at)
{
    struct find f = {.at = (uintptr_t)at, .m.path = "/proc/self/exe"};

    dl_iterate_phdr(find_module, &f);
    cr_assert(f.found);
    return f.m;
}

Test(symbol, vdso_is_read_from_memory)
{
    uintptr_t at = getauxval(AT_SYSINFO_EHDR);
    void *vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *f = vdso ? dlsym(vdso, "__vdso_clock_gettime") : NULL;

    if (!at || !f)
        return;
    pf_module m = {.start = at, .limit = at + 0x2000, .bias = at, .path = "[vdso]"};
    cr_assert_not_null(strstr(name_at(&m, (uintptr_t)f + 1, NULL), "clock_gettime"));
    char expect[64];
    snprintf(expect, sizeof expect, "[vdso+0x%x]", 2);
    cr_assert_str_eq(name_at(&m, at + 2, NULL), expect);
}

Test(symbol, a_replaced_program_is_found_through_proc)
{
    pf_module m = module_at((void *)find_module);
    bool named;

    if (!m.build_id[0])
        return;
    m.path = "/nowhere/replaced";
    cr_assert_str_eq(name_at(&m, (uintptr_t)find_module, &named), "find_module");
    cr_assert(named);
}

Test(symbol, a_deleted_library_is_named_from_its_image, .init = setup, .fini = teardown)
{
    char lib[128];
    bool named;

    snprintf(lib, sizeof lib, "%s/gone.so", dir);
    run("cd %s && gcc -O2 -g -fPIC -shared prog.c -Wl,--build-id=0x" BUILD_ID " -o gone.so", dir);
    void *h = dlopen(lib, RTLD_NOW);
    cr_assert_not_null(h, "%s", dlerror());
    void *f = dlsym(h, "exported");
    cr_assert_eq(unlink(lib), 0);
    pf_module m = module_at(f);
    cr_assert_str_eq(m.build_id, BUILD_ID);
    m.path = lib;
    m.limit -= 1; /* so that map_files has no such entry, as without privilege */
    cr_assert_str_eq(name_at(&m, (uintptr_t)f + 1, &named), "exported");
    cr_assert(named);
}

Test(symbol, an_unloaded_library_harms_nothing, .init = setup, .fini = teardown)
{
    char lib[128];

    snprintf(lib, sizeof lib, "%s/gone.so", dir);
    run("cd %s && gcc -O2 -g -fPIC -shared prog.c -Wl,--build-id=0x" BUILD_ID " -o gone.so", dir);
    void *h = dlopen(lib, RTLD_NOW);
    cr_assert_not_null(h);
    void *f = dlsym(h, "exported");
    pf_module m = module_at(f);
    m.path = lib;
    cr_assert_eq(dlclose(h), 0);
    cr_assert_str_eq(name_at(&m, (uintptr_t)f + 1, NULL), "exported");
    /* Nor does one that is gone from the disk and from memory, */
    cr_assert_eq(unlink(lib), 0);
    strcpy(m.build_id, "00");
    cr_assert_str_neq(name_at(&m, (uintptr_t)f + 1, NULL), "exported");
    /* nor one in whose place something else is mapped. */
    void *other = mmap((void *)(m.bias & ~4095ul), 65536, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (other != MAP_FAILED)
        memset(other, 0x7f, 65536);
    strcpy(m.build_id, "01");
    cr_assert_str_neq(name_at(&m, (uintptr_t)f + 1, NULL), "exported");
}

Test(symbol, rubbish_files_are_survived, .init = setup, .fini = teardown, .timeout = 120)
{
    char prog[128], broken[128], name[64];
    unsigned seed = 7;
    size_t n;

    snprintf(prog, sizeof prog, "%s/whole", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o whole", dir);
    unsigned long at = address_of(prog, "outer");
    FILE *f = fopen(prog, "r");
    static unsigned char bytes[1 << 20], copy[sizeof bytes];
    n = fread(bytes, 1, sizeof bytes, f);
    fclose(f);
    for (int round = 0; round < 150; round++) {
        memcpy(copy, bytes, n);
        size_t keep = round % 5 == 4 ? n / 2 + (size_t)rand_r(&seed) % (n / 2) : n;
        /* The debug sections lie in the last third: the header and notes stay valid mostly. */
        for (int i = 0; i < 1 + round; i++)
            copy[n / 3 + (size_t)rand_r(&seed) % (n - n / 3)] = (unsigned char)rand_r(&seed);
        snprintf(name, sizeof name, "broken-%d", round);
        snprintf(broken, sizeof broken, "%s/%s", dir, name);
        f = fopen(broken, "w");
        fwrite(copy, 1, keep, f);
        fclose(f);
        pf_module m = module_for(broken, BUILD_ID);
        for (unsigned long v = at; v < at + 64; v += 3)
            cr_assert_gt(strlen(name_at(&m, v, NULL)), 0);
    }
}

Test(symbol, synthetic_addresses_have_names)
{
    pf_symbols_begin();
    cr_assert_str_eq(pf_symbol_find(NULL, PF_TRUNCATED)->frames[0].name, "[truncated]");
    cr_assert_str_eq(pf_symbol_find(NULL, PF_NO_STACK)->frames[0].name, "[no stack]");
    for (uintptr_t i = 0; i < PF_SYNTHETIC_END; i++)
        cr_assert_eq(pf_symbol_find(NULL, i)->nframes, 1);
    cr_assert(!pf_symbol_find(NULL, 0x7f0012345678)->named);
    pf_symbols_end();
}

Test(symbol, a_child_after_fork_starts_anew)
{
    pf_symbols_begin();
    pf_symbols_forget();
    pf_symbols_begin(); /* would wait for ever otherwise */
    pf_symbols_end();
}
