/* Functions, files, lines and inline chains, compared with addr2line for every instruction of small
 * programs that are compiled here, by each compiler and DWARF version at hand. */
#include "tests/profiler/present/fixture.h"

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

Test(symbol_dwarf, optimized, .init = setup, .fini = teardown, .timeout = 120)
{
    each_compiler("-O2");
}

Test(symbol_dwarf, sections_and_no_pie, .init = setup, .fini = teardown, .timeout = 120)
{
    each_compiler("-O2 -ffunction-sections -Wl,--gc-sections -no-pie");
}

Test(symbol_dwarf, split_dwarf, .init = setup, .fini = teardown, .timeout = 120)
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

Test(symbol_dwarf, compressed_sections, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];

    snprintf(prog, sizeof prog, "%s/packed", dir);
    run("cd %s && gcc -g -gz=zlib -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o packed", dir);
    cr_assert_gt(compare_with_addr2line(prog), 30);
}

Test(symbol_dwarf, separate_file, .init = setup, .fini = teardown, .timeout = 60)
{
    char prog[128];

    snprintf(prog, sizeof prog, "%s/sep", dir);
    run("cd %s && gcc -g -O2 prog.c -Wl,--build-id=0x" BUILD_ID " -o sep && mkdir .debug &&"
        " objcopy --only-keep-debug sep .debug/sep.debug && strip sep &&"
        " objcopy --add-gnu-debuglink=.debug/sep.debug sep",
        dir);
    cr_assert_gt(compare_with_addr2line(prog), 30);
}

Test(symbol_dwarf, scopes_of_cxx, .init = setup, .fini = teardown, .timeout = 60)
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
