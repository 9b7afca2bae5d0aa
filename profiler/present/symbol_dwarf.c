/* What DWARF says of an address: the inline chain, each level with its file and line.
 *
 * Two indexes of our own stand over libdw. The first maps addresses to units, from the ranges of
 * every unit's own entry: .debug_aranges is not used, since clang writes none. The second, made
 * for a unit when it is first asked, maps addresses to the unit's functions. Both are sorted
 * arrays.
 *
 * Invariants
 *  1. Strings handed out are libdw's or this handle's, and live as long as the handle.
 *  2. A range that begins at 0 or near the end of the address space belongs to code that the linker
 *     dropped; it is never indexed.
 *  3. Recursion over entries is bounded (DEPTH_MAX), whatever the file says.
 *
 * Names of C++ (and Rust) functions are made from the scopes around them, ns::Class::name, so that
 * no demangler is needed in the process (H67); system_name keeps the mangled one.
 *
 * Locks: the caller holds the symbols lock.
 *
 * Rejected: dwarf_addrdie (needs aranges, and is wrong without); dwarf_getscopes (walks a whole
 * unit's tree for each address); libdwfl (may ask the network for debug files).
 */
#include <dwarf.h>
#include <elfutils/libdw.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "present.h"

#define DEPTH_MAX 200
#define CHAIN_MAX 120 /* inlined levels that are followed */
#define WALK_BACK 32  /* ranges that begin earlier and may enclose an address */
#define NAMES     1024

typedef struct range {
    uint64_t lo, hi;
    uint32_t unit;
} range;

typedef struct func {
    uint64_t lo, hi;
    Dwarf_Die die;
} func;

typedef struct unit {
    Dwarf_Die die;   /* holds the functions: the unit, or what its skeleton stands for */
    Dwarf_Die lines; /* holds the line table */
    func *funcs;
    size_t nfuncs, cap;
    bool indexed;
} unit;

/* Strings made here, found again by what they were made from (an entry or a string of libdw). */
typedef struct made {
    struct made *next;
    const void *key;
    char text[];
} made;

struct pf_dwarf {
    Dwarf *dbg;
    unit *units;
    size_t nunits, unit_cap;
    range *ranges;
    size_t nranges, range_cap;
    made *names[NAMES];
};

/* ---- strings ---- */

static size_t name_slot(const void *key)
{
    return ((uintptr_t)key * 0x9e3779b97f4a7c15u) >> 54;
}

static made *made_find(const pf_dwarf *d, const void *key)
{
    made *m = d->names[name_slot(key)];

    while (m && m->key != key)
        m = m->next;
    return m;
}

static char *made_new(pf_dwarf *d, const void *key, size_t bytes)
{
    made *m = malloc(sizeof *m + bytes);

    if (!m)
        return NULL;
    m->key = key;
    m->next = d->names[name_slot(key)];
    d->names[name_slot(key)] = m;
    return m->text;
}

/* A path as the line table has it, made absolute and without "/./" and "//"; ".." stays, since a
 * symbolic link may be before it. libdw joins a relative directory to the unit's in some tables
 * only. */
static const char *clean_path(pf_dwarf *d, unit *u, const char *path)
{
    Dwarf_Attribute a;
    const char *dir = "";
    made *m;
    char *to, *start;

    if (!path)
        return "";
    if (path[0] == '/' && !strstr(path, "/./") && !strstr(path, "//"))
        return path;
    if ((m = made_find(d, path)))
        return m->text;
    if (path[0] != '/')
        dir = dwarf_formstring(dwarf_attr(&u->lines, DW_AT_comp_dir, &a));
    start = to = made_new(d, path, strlen(path) + (dir ? strlen(dir) : 0) + 2);
    if (!start)
        return path;
    if (dir && dir[0])
        to = stpcpy(stpcpy(to, dir), "/");
    strcpy(to, path);
    for (const char *from = to = start; (*to = *from);) {
        if (from[0] == '/' && from[1] == '/')
            from++;
        else if (from[0] == '/' && from[1] == '.' && from[2] == '/')
            from += 2;
        else
            from++, to++;
    }
    return start;
}

static const char *linkage_name(Dwarf_Die *die)
{
    Dwarf_Attribute a;
    const char *s = dwarf_formstring(dwarf_attr_integrate(die, DW_AT_linkage_name, &a));

    return s ? s : dwarf_formstring(dwarf_attr_integrate(die, DW_AT_MIPS_linkage_name, &a));
}

/* The entry that carries the declaration: where a function stands among its scopes. */
static Dwarf_Die declaration(const Dwarf_Die *die)
{
    Dwarf_Die at = *die, next;
    Dwarf_Attribute a;

    for (int i = 0; i < 8; i++) {
        if (!dwarf_formref_die(dwarf_attr(&at, DW_AT_abstract_origin, &a), &next) &&
            !dwarf_formref_die(dwarf_attr(&at, DW_AT_specification, &a), &next))
            break;
        at = next;
    }
    return at;
}

static bool is_scope(int tag)
{
    return tag == DW_TAG_namespace || tag == DW_TAG_class_type || tag == DW_TAG_structure_type ||
           tag == DW_TAG_union_type || tag == DW_TAG_enumeration_type || tag == DW_TAG_module;
}

static const char *qualified_name(pf_dwarf *d, Dwarf_Die *die, const char *name)
{
    Dwarf_Die decl = declaration(die), *scopes = NULL;
    made *m = made_find(d, decl.addr);
    size_t bytes = strlen(name) + 1;
    char *text;
    int n;

    if (m)
        return m->text;
    n = dwarf_getscopes_die(&decl, &scopes);
    for (int i = 1; i < n; i++)
        if (is_scope(dwarf_tag(&scopes[i]))) {
            const char *s = dwarf_diename(&scopes[i]);
            bytes += strlen(s ? s : "(anonymous)") + 2;
        }
    text = made_new(d, decl.addr, bytes);
    if (text) {
        char *to = text;
        for (int i = n - 1; i > 0; i--)
            if (is_scope(dwarf_tag(&scopes[i]))) {
                const char *s = dwarf_diename(&scopes[i]);
                to = stpcpy(stpcpy(to, s ? s : "(anonymous)"), "::");
            }
        strcpy(to, name);
    }
    free(scopes);
    return text ? text : name;
}

static void frame_name(pf_dwarf *d, Dwarf_Die *die, pf_frame *f)
{
    const char *name = dwarf_diename(die), *linkage = linkage_name(die);

    if (linkage && !linkage[0])
        linkage = NULL;
    if (name && linkage && linkage[0] == '_' && (linkage[1] == 'Z' || linkage[1] == 'R'))
        name = qualified_name(d, die, name);
    f->name = name && name[0] ? name : linkage;
    f->system_name = linkage ? linkage : f->name;
}

/* ---- the indexes ---- */

static bool live_range(uint64_t lo, uint64_t hi)
{
    return lo != 0 && lo < hi && lo < UINT64_MAX - 4096;
}

static int range_add(pf_dwarf *d, uint64_t lo, uint64_t hi, size_t u)
{
    if (d->nranges == d->range_cap) {
        size_t cap = d->range_cap ? 2 * d->range_cap : 256;
        range *r = realloc(d->ranges, cap * sizeof *r);
        if (!r)
            return -ENOMEM;
        d->ranges = r;
        d->range_cap = cap;
    }
    d->ranges[d->nranges++] = (range){lo, hi, (uint32_t)u};
    return 0;
}

static int func_add(unit *u, uint64_t lo, uint64_t hi, const Dwarf_Die *die)
{
    if (u->nfuncs == u->cap) {
        size_t cap = u->cap ? 2 * u->cap : 32;
        func *f = realloc(u->funcs, cap * sizeof *f);
        if (!f)
            return -ENOMEM;
        u->funcs = f;
        u->cap = cap;
    }
    u->funcs[u->nfuncs++] = (func){lo, hi, *die};
    return 0;
}

/* Functions can stand inside scopes, and inside other functions (GNU C nested functions, whose
 * code is elsewhere). */
static int collect_functions(unit *u, Dwarf_Die *parent, int depth)
{
    Dwarf_Die die;
    int r = 0;

    if (depth > DEPTH_MAX || dwarf_child(parent, &die) != 0)
        return 0;
    do {
        int tag = dwarf_tag(&die);
        bool concrete = false;
        if (tag == DW_TAG_subprogram) {
            Dwarf_Addr base, lo, hi;
            ptrdiff_t at = 0;
            while (r == 0 && (at = dwarf_ranges(&die, at, &base, &lo, &hi)) > 0)
                if (live_range(lo, hi)) {
                    concrete = true;
                    r = func_add(u, lo, hi, &die);
                }
        }
        if (r == 0 && (concrete || is_scope(tag) || tag == DW_TAG_lexical_block))
            r = collect_functions(u, &die, depth + 1);
    } while (r == 0 && dwarf_siblingof(&die, &die) == 0);
    return r;
}

static int by_lo(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b; /* both kinds begin with lo, hi */

    if (x[0] != y[0])
        return x[0] < y[0] ? -1 : 1;
    return x[1] > y[1] ? -1 : x[1] < y[1];
}

static void index_functions(unit *u)
{
    if (u->indexed)
        return;
    u->indexed = true;
    collect_functions(u, &u->die, 0); /* out of memory: those that were found */
    if (u->nfuncs)
        qsort(u->funcs, u->nfuncs, sizeof *u->funcs, by_lo);
}

static int index_unit(pf_dwarf *d, const Dwarf_Die *cu, const Dwarf_Die *split)
{
    Dwarf_Addr base, lo, hi;
    ptrdiff_t at = 0;
    size_t before = d->nranges;
    unit *u;

    if (d->nunits == d->unit_cap) {
        size_t cap = d->unit_cap ? 2 * d->unit_cap : 64;
        u = realloc(d->units, cap * sizeof *u);
        if (!u)
            return -ENOMEM;
        d->units = u;
        d->unit_cap = cap;
    }
    u = &d->units[d->nunits];
    *u = (unit){.die = split->addr ? *split : *cu, .lines = *cu};
    while ((at = dwarf_ranges(&u->lines, at, &base, &lo, &hi)) > 0)
        if (live_range(lo, hi) && range_add(d, lo, hi, d->nunits) < 0)
            return -ENOMEM;
    if (d->nranges == before) { /* a unit that does not say where its code is */
        index_functions(u);
        for (size_t i = 0; i < u->nfuncs; i++)
            if (range_add(d, u->funcs[i].lo, u->funcs[i].hi, d->nunits) < 0)
                return -ENOMEM;
    }
    d->nunits++;
    return 0;
}

pf_dwarf *pf_dwarf_open(Elf *elf)
{
    Dwarf *dbg = elf ? dwarf_begin_elf(elf, DWARF_C_READ, NULL) : NULL;
    pf_dwarf *d = dbg ? calloc(1, sizeof *d) : NULL;
    Dwarf_CU *cu = NULL;
    Dwarf_Die die, split;
    uint8_t type;

    if (!d) {
        dwarf_end(dbg);
        return NULL;
    }
    d->dbg = dbg;
    while (dwarf_get_units(dbg, cu, &cu, NULL, &type, &die, &split) == 0) {
        int tag = dwarf_tag(&die);
        if (tag != DW_TAG_compile_unit && tag != DW_TAG_skeleton_unit)
            continue;
        if (type != DW_UT_skeleton)
            memset(&split, 0, sizeof split);
        if (index_unit(d, &die, &split) < 0)
            break;
    }
    if (d->nranges == 0) {
        pf_dwarf_close(d);
        return NULL;
    }
    qsort(d->ranges, d->nranges, sizeof *d->ranges, by_lo);
    return d;
}

void pf_dwarf_close(pf_dwarf *d)
{
    if (!d)
        return;
    for (size_t i = 0; i < d->nunits; i++)
        free(d->units[i].funcs);
    for (size_t i = 0; i < NAMES; i++)
        while (d->names[i]) {
            made *next = d->names[i]->next;
            free(d->names[i]);
            d->names[i] = next;
        }
    free(d->units);
    free(d->ranges);
    dwarf_end(d->dbg);
    free(d);
}

/* How many of the sorted ranges (each `step` bytes, beginning with lo) begin at or before v. */
static size_t begun(const void *ranges, size_t n, size_t step, uint64_t v)
{
    size_t lo = 0, hi = n;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (*(const uint64_t *)((const char *)ranges + mid * step) <= v)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static func *find_function(unit *u, uint64_t v)
{
    size_t i;

    index_functions(u);
    i = begun(u->funcs, u->nfuncs, sizeof *u->funcs, v);
    for (int back = 0; i > 0 && back < WALK_BACK; i--, back++)
        if (v < u->funcs[i - 1].hi)
            return &u->funcs[i - 1];
    return NULL;
}

/* ---- one address ---- */

/* Inlined calls that cover v below an entry, outermost first. A block that has no addresses of its
 * own may still hold one that has. */
static uint32_t inline_chain(Dwarf_Die *parent, uint64_t v, Dwarf_Die *chain, uint32_t n, int depth)
{
    Dwarf_Die die;

    if (depth > DEPTH_MAX || n == CHAIN_MAX || dwarf_child(parent, &die) != 0)
        return n;
    do {
        int tag = dwarf_tag(&die);
        if (tag != DW_TAG_inlined_subroutine && tag != DW_TAG_lexical_block &&
            tag != DW_TAG_try_block && tag != DW_TAG_catch_block)
            continue;
        int covers = dwarf_haspc(&die, v);
        if (covers > 0) {
            if (tag == DW_TAG_inlined_subroutine)
                chain[n++] = die;
            return inline_chain(&die, v, chain, n, depth + 1);
        }
        if (tag == DW_TAG_lexical_block && !dwarf_hasattr(&die, DW_AT_low_pc) &&
            !dwarf_hasattr(&die, DW_AT_ranges)) {
            uint32_t more = inline_chain(&die, v, chain, n, depth + 1);
            if (more > n)
                return more;
        }
    } while (dwarf_siblingof(&die, &die) == 0);
    return n;
}

/* The last row at or before v in its sequence. Line 0 means that the compiler could not say; the
 * row before it is nearer to the truth than nothing. */
static void line_of(pf_dwarf *d, unit *u, uint64_t v, pf_frame *f)
{
    Dwarf_Lines *lines;
    size_t n, lo = 0, hi;
    Dwarf_Addr at;
    bool end;
    int number;

    if (dwarf_getsrclines(&u->lines, &lines, &n) != 0)
        return;
    for (hi = n; lo < hi;) {
        size_t mid = lo + (hi - lo) / 2;
        if (dwarf_lineaddr(dwarf_onesrcline(lines, mid), &at) == 0 && at <= v)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (; lo > 0; lo--) {
        Dwarf_Line *row = dwarf_onesrcline(lines, lo - 1);
        if (dwarf_lineendsequence(row, &end) != 0 || end || dwarf_lineno(row, &number) != 0)
            return;
        if (!f->file[0])
            f->file = clean_path(d, u, dwarf_linesrc(row, NULL, NULL));
        if (number > 0) {
            f->file = clean_path(d, u, dwarf_linesrc(row, NULL, NULL));
            f->line = number;
            return;
        }
    }
}

/* Where an inlined call stands in its caller. */
static void call_site(pf_dwarf *d, unit *u, Dwarf_Die *inlined, pf_frame *f)
{
    Dwarf_Attribute a;
    Dwarf_Word file, line;
    Dwarf_Files *files;
    size_t n;

    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_line, &a), &line) == 0)
        f->line = (int64_t)line;
    if (dwarf_formudata(dwarf_attr(inlined, DW_AT_call_file, &a), &file) == 0 &&
        dwarf_getsrcfiles(&u->die, &files, &n) == 0 && file < n)
        f->file = clean_path(d, u, dwarf_filesrc(files, file, NULL, NULL));
}

static uint32_t fill(pf_dwarf *d, unit *u, func *fn, uint64_t v, pf_frame *frames, uint32_t max)
{
    Dwarf_Die chain[CHAIN_MAX];
    uint32_t n = fn ? inline_chain(&fn->die, v, chain, 0, 0) : 0, out = 0;

    if (n > max - 1)
        n = max - 1;
    for (uint32_t i = 0; i <= n; i++)
        frames[i] = (pf_frame){NULL, NULL, "", 0};
    line_of(d, u, v, &frames[0]);
    /* chain[n-1] is the innermost; its caller's line is where it is called. */
    for (uint32_t i = n; i > 0; i--, out++) {
        frame_name(d, &chain[i - 1], &frames[out]);
        call_site(d, u, &chain[i - 1], &frames[out + 1]);
        if (!frames[out].name)
            frames[out].name = frames[out].system_name = "[inlined]";
    }
    if (fn)
        frame_name(d, &fn->die, &frames[out]);
    return frames[0].line || frames[out].name ? out + 1 : 0;
}

uint32_t pf_dwarf_find(pf_dwarf *d, uint64_t vaddr, pf_frame *frames, uint32_t max, uint64_t *entry)
{
    size_t i = begun(d->ranges, d->nranges, sizeof *d->ranges, vaddr);
    unit *found = NULL;
    func *fn = NULL;

    for (int back = 0; !fn && i > 0 && back < WALK_BACK; i--, back++) {
        if (vaddr >= d->ranges[i - 1].hi)
            continue;
        unit *u = &d->units[d->ranges[i - 1].unit];
        fn = find_function(u, vaddr);
        if (fn || !found)
            found = u;
    }
    if (!found)
        return 0;
    if (fn) {
        Dwarf_Addr at;
        *entry = dwarf_entrypc(&fn->die, &at) == 0 && at <= vaddr ? at : fn->lo;
    }
    return fill(d, found, fn, vaddr, frames, max);
}
