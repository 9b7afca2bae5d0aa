/* Files of a module: the ELF file it was mapped from, its separate debug file, its function
 * symbols.
 *
 * Invariants
 *  1. A file is used only if it is the build that is mapped: equal build ids, or, where the module
 *     has none, the inode that the process map shows. A wrong file gives wrong names that look
 *     right, which is worse than none (H63).
 *  2. Everything is read locally: the module's path, /proc/self, and the two customary places of
 *     separate debug files. Nothing is fetched (H67); libdwfl is not used because it would.
 *  3. No file descriptor stays open: files are mapped whole, then closed.
 *  4. No address of the process is read through a pointer, since a module may have been unmapped
 *     (H31): /proc/self/mem fails where a load would fault.
 *
 * Where the file of a module is gone, /proc/self/exe (the program) and /proc/self/map_files (any
 * module, but only with privilege) still lead to it; else the dynamic symbols in the mapped image
 * name at least its exported functions.
 *
 * Locks: the caller holds the symbols lock.
 *
 * Rejected: dl_iterate_phdr to find images; it takes the loader's lock, which a hung dlopen holds.
 */
#include <elfutils/libdwelf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <zlib.h>
#include "present.h"

#define DEBUG_ROOT     "/usr/lib/debug"
#define IMAGE_MAX      (64u << 20) /* of an image read from memory; a hostile header may say more */
#define WALK_BACK      32          /* enclosing symbols looked at when the nearest does not cover */
#define SYMBOL_MAX     (1u << 24)
#define PATH_BYTES     4096
#define BUILD_ID_BYTES 64

/* ---- reading the process ---- */

static bool read_memory(uintptr_t from, void *to, size_t n)
{
    int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    size_t done = 0;

    if (fd < 0)
        return false;
    while (done < n) {
        ssize_t r = pread(fd, (char *)to + done, n - done, (off_t)(from + done));
        if (r <= 0)
            break;
        done += (size_t)r;
    }
    close(fd);
    return done == n;
}

/* ---- opening files ---- */

static Elf *elf_from_path(const char *path)
{
    /* O_NONBLOCK: the path may have become a FIFO. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    Elf *elf = NULL;

    if (fd < 0)
        return NULL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && elf_version(EV_CURRENT) != EV_NONE)
        elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
    if (elf && (elf_kind(elf) != ELF_K_ELF || elf_cntl(elf, ELF_C_FDREAD) != 0)) {
        elf_end(elf);
        elf = NULL;
    }
    close(fd);
    return elf;
}

static void build_id_of(Elf *elf, char hex[2 * BUILD_ID_BYTES + 1])
{
    const void *bits = NULL;
    ssize_t n = dwelf_elf_gnu_build_id(elf, &bits);
    const unsigned char *b = bits;

    hex[0] = '\0';
    for (ssize_t i = 0; i < n && i < BUILD_ID_BYTES; i++)
        sprintf(hex + 2 * i, "%02x", b[i]);
}

/* The inode that the process map shows at an address; 0 when unknown. */
static unsigned long mapped_inode(uintptr_t address)
{
    FILE *f = fopen("/proc/self/maps", "re");
    char line[PATH_BYTES + 128];
    unsigned long inode = 0;

    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) {
        unsigned long lo, hi, ino;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %lu", &lo, &hi, &ino) == 3 && address >= lo &&
            address < hi) {
            inode = ino;
            break;
        }
    }
    fclose(f);
    return inode;
}

/* Only the inode is compared: overlay and btrfs show another device in the map than in stat. */
static bool is_mapped_file(const char *path, const pf_module *m)
{
    struct stat st;
    unsigned long inode = mapped_inode(m->start);

    return inode && stat(path, &st) == 0 && st.st_ino == inode;
}

static Elf *module_from_path(const char *path, const pf_module *m)
{
    char id[2 * BUILD_ID_BYTES + 1];
    Elf *elf = elf_from_path(path);

    if (!elf)
        return NULL;
    build_id_of(elf, id);
    /* The module's id is cut where its field ends. */
    if (m->build_id[0] ? strncmp(id, m->build_id, sizeof m->build_id - 1) == 0
                       : is_mapped_file(path, m))
        return elf;
    elf_end(elf);
    return NULL;
}

static Elf *module_file(const pf_module *m)
{
    char link[96];
    Elf *elf = module_from_path(m->path, m); /* which may be relative to where the program began */

    if (!elf)
        elf = module_from_path("/proc/self/exe", m);
    if (!elf) {
        snprintf(link, sizeof link, "/proc/self/map_files/%lx-%lx", (unsigned long)m->start,
                 (unsigned long)m->limit);
        elf = module_from_path(link, m);
    }
    return elf;
}

/* ---- separate debug files ---- */

static Elf_Scn *section(Elf *elf, const char *name, GElf_Shdr *header)
{
    size_t names;
    Elf_Scn *scn = NULL;

    if (elf_getshdrstrndx(elf, &names) != 0)
        return NULL;
    while ((scn = elf_nextscn(elf, scn))) {
        const char *s;
        if (gelf_getshdr(scn, header) && (s = elf_strptr(elf, names, header->sh_name)) &&
            strcmp(s, name) == 0)
            return scn;
    }
    return NULL;
}

static bool has_debug_info(Elf *elf)
{
    GElf_Shdr h;

    return (section(elf, ".debug_info", &h) || section(elf, ".zdebug_info", &h)) &&
           h.sh_type != SHT_NOBITS;
}

static bool crc_matches(const char *path, GElf_Word crc)
{
    FILE *f = fopen(path, "re");
    unsigned char block[16384];
    uLong sum = crc32(0, NULL, 0);
    size_t n;

    if (!f)
        return false;
    while ((n = fread(block, 1, sizeof block, f)) > 0)
        sum = crc32(sum, block, (uInt)n);
    fclose(f);
    return sum == crc;
}

/* A debug file named by a link is the right one if the build ids say so, or, without one, if its
 * checksum is that of the link. */
static Elf *debug_from_path(const char *path, const char *id, const GElf_Word *crc)
{
    char other[2 * BUILD_ID_BYTES + 1];
    Elf *elf = elf_from_path(path);

    if (!elf)
        return NULL;
    build_id_of(elf, other);
    if (id[0] || other[0] ? strcmp(id, other) == 0 : crc && crc_matches(path, *crc))
        return elf;
    elf_end(elf);
    return NULL;
}

static Elf *debug_file(Elf *elf, const pf_module *m)
{
    char id[2 * BUILD_ID_BYTES + 1], path[PATH_BYTES];
    GElf_Word crc;
    const char *link, *slash = strrchr(m->path, '/');
    Elf *found = NULL;

    build_id_of(elf, id);
    if (strlen(id) > 2) {
        snprintf(path, sizeof path, DEBUG_ROOT "/.build-id/%.2s/%s.debug", id, id + 2);
        found = debug_from_path(path, id, NULL);
    }
    link = found ? NULL : dwelf_elf_gnu_debuglink(elf, &crc);
    if (link && slash && !strchr(link, '/')) {
        static const char *const form[] = {"%.*s%s", "%.*s.debug/%s", DEBUG_ROOT "%.*s%s"};
        int dir = (int)(slash - m->path) + 1;
        for (size_t i = 0; !found && i < sizeof form / sizeof *form; i++) {
            int n = snprintf(path, sizeof path, form[i], dir, m->path, link);
            if (n < (int)sizeof path && strcmp(path, m->path) != 0)
                found = debug_from_path(path, id, &crc);
        }
    }
    return found;
}

/* ---- symbols ---- */

enum { RANK_NOTYPE = 1 << 20 };
typedef struct candidate {
    uint64_t start, size;
    const char *name;
    int rank; /* lower is the better name of several at one address */
} candidate;
typedef struct candidates {
    candidate *v;
    size_t n, cap;
} candidates;

/* What people call it: `read` rather than `__read`, then the exported, then the shorter. */
static int rank_of(const char *name, int type, int bind)
{
    size_t underscores = strspn(name, "_"), len = strlen(name);
    int r = (int)(underscores > 7 ? 7 : underscores) << 12 | (bind == STB_LOCAL) << 11 |
            (int)(len > 1023 ? 1023 : len);

    return type == STT_NOTYPE ? r + RANK_NOTYPE : r;
}

static bool candidate_add(candidates *c, uint64_t start, uint64_t size, const char *name, int type,
                          int bind)
{
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 1024;
        candidate *v = cap > SYMBOL_MAX ? NULL : realloc(c->v, cap * sizeof *v);
        if (!v)
            return false;
        c->v = v;
        c->cap = cap;
    }
    c->v[c->n++] = (candidate){start, size, name, rank_of(name, type, bind)};
    return true;
}

/* A symbol with no size covers what is left of its section, until the next symbol. */
static void symbols_of_section(Elf *elf, Elf_Scn *scn, const GElf_Shdr *header, candidates *out)
{
    Elf_Data *data = elf_getdata(scn, NULL);
    size_t n = header->sh_entsize ? header->sh_size / header->sh_entsize : 0;

    for (size_t i = 1; data && i < n; i++) {
        GElf_Sym sym;
        GElf_Shdr in;
        if (!gelf_getsym(data, (int)i, &sym))
            break;
        int type = GELF_ST_TYPE(sym.st_info);
        const char *name = elf_strptr(elf, header->sh_link, sym.st_name);
        if ((type != STT_FUNC && type != STT_GNU_IFUNC && type != STT_NOTYPE) || !name ||
            !name[0] || sym.st_shndx == SHN_UNDEF || sym.st_shndx >= SHN_LORESERVE)
            continue;
        Elf_Scn *home = elf_getscn(elf, sym.st_shndx);
        if (!home || !gelf_getshdr(home, &in) || !(in.sh_flags & SHF_EXECINSTR) ||
            sym.st_value - in.sh_addr >= in.sh_size)
            continue;
        /* Assembler-local and mapping labels are no functions. */
        if (type == STT_NOTYPE && (name[0] == '$' || name[0] == '.'))
            continue;
        uint64_t rest = in.sh_addr + in.sh_size - sym.st_value;
        uint64_t size = sym.st_size && sym.st_size < rest ? sym.st_size : sym.st_size ? rest : 0;
        if (!candidate_add(out, sym.st_value, size ? size : rest, name, size ? type : STT_NOTYPE,
                           GELF_ST_BIND(sym.st_info)))
            break;
    }
}

static bool symbols_of(Elf *elf, GElf_Word kind, candidates *out)
{
    Elf_Scn *scn = NULL;
    GElf_Shdr h;

    while (elf && (scn = elf_nextscn(elf, scn)))
        if (gelf_getshdr(scn, &h) && h.sh_type == kind)
            symbols_of_section(elf, scn, &h, out);
    return out->n > 0;
}

static int by_start(const void *a, const void *b)
{
    const candidate *x = a, *y = b;

    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* One name for each start; a sizeless label inside a sized function is no function of its own, and
 * a sizeless one outside ends where the next begins. */
static int settle(pf_elf *e, candidates *c)
{
    uint64_t covered = 0;
    size_t n = 0;

    if (c->n == 0)
        return 0;
    qsort(c->v, c->n, sizeof *c->v, by_start);
    e->symbols = malloc(c->n * sizeof *e->symbols);
    if (!e->symbols)
        return -ENOMEM;
    for (size_t i = 0; i < c->n; i++) {
        candidate *s = &c->v[i];
        bool sizeless = s->rank >= RANK_NOTYPE;
        if (i > 0 && s->start == c->v[i - 1].start)
            continue;
        if (sizeless && s->start < covered)
            continue;
        if (sizeless) {
            size_t next = i + 1;
            while (next < c->n && c->v[next].start == s->start)
                next++;
            if (next < c->n && c->v[next].start - s->start < s->size)
                s->size = c->v[next].start - s->start;
        } else if (s->start + s->size > covered) {
            covered = s->start + s->size;
        }
        e->symbols[n++] = (pf_symbol){s->start, s->size, s->name};
    }
    e->nsymbols = n;
    return 0;
}

const pf_symbol *pf_elf_symbol(const pf_elf *e, uint64_t vaddr)
{
    size_t lo = 0, hi = e->nsymbols;

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (e->symbols[mid].start <= vaddr)
            lo = mid + 1;
        else
            hi = mid;
    }
    for (size_t i = lo, back = 0; i > 0 && back < WALK_BACK; i--, back++)
        if (vaddr - e->symbols[i - 1].start < e->symbols[i - 1].size)
            return &e->symbols[i - 1];
    return NULL;
}

/* ---- images in memory ---- */

/* The kernel's own image has section headers, so libelf reads a copy of it like a file. */
static Elf *vdso_image(pf_elf *e, const pf_module *m)
{
    uintptr_t at = getauxval(AT_SYSINFO_EHDR);
    size_t n = m->limit - m->start;

    if (!at || at < m->start || at >= m->limit || n > IMAGE_MAX)
        return NULL;
    n = m->limit - at;
    e->memory = malloc(n);
    if (!e->memory || !read_memory(at, e->memory, n) || elf_version(EV_CURRENT) == EV_NONE)
        return NULL;
    return elf_memory(e->memory, n);
}

typedef struct dynamic {
    uint64_t symtab, strtab, strsz, hash, gnu_hash;
} dynamic;

static uint64_t pointer_of(const pf_module *m, uint64_t v)
{
    return v < m->bias ? v + m->bias : v; /* the loader relocates these entries in most images */
}

static bool read_dynamic(const pf_module *m, const ElfW(Phdr) * ph, dynamic *d)
{
    ElfW(Dyn) dyn;

    memset(d, 0, sizeof *d);
    for (size_t at = 0; at + sizeof dyn <= ph->p_memsz; at += sizeof dyn) {
        if (!read_memory(m->bias + ph->p_vaddr + at, &dyn, sizeof dyn))
            return false;
        if (dyn.d_tag == DT_NULL)
            break;
        if (dyn.d_tag == DT_SYMTAB)
            d->symtab = pointer_of(m, dyn.d_un.d_ptr);
        else if (dyn.d_tag == DT_STRTAB)
            d->strtab = pointer_of(m, dyn.d_un.d_ptr);
        else if (dyn.d_tag == DT_STRSZ)
            d->strsz = dyn.d_un.d_val;
        else if (dyn.d_tag == DT_HASH)
            d->hash = pointer_of(m, dyn.d_un.d_ptr);
        else if (dyn.d_tag == DT_GNU_HASH)
            d->gnu_hash = pointer_of(m, dyn.d_un.d_ptr);
    }
    return d->symtab && d->strtab && d->strsz && d->strsz < IMAGE_MAX;
}

/* How many dynamic symbols there are stands nowhere but in the hash tables: as the number of
 * chains in the old one, as the end of the last chain in the new one. */
static uint64_t dynamic_count(const dynamic *d)
{
    uint32_t h[4], link = 0, last = 0;

    if (d->hash && read_memory(d->hash, h, 2 * sizeof *h))
        return h[1];
    if (!d->gnu_hash || !read_memory(d->gnu_hash, h, sizeof h) || h[0] > SYMBOL_MAX)
        return 0;
    uint64_t buckets = d->gnu_hash + sizeof h + (uint64_t)h[2] * sizeof(ElfW(Addr));
    uint32_t *first = malloc(h[0] * sizeof *first + 1);
    if (first && read_memory(buckets, first, h[0] * sizeof *first))
        for (uint32_t i = 0; i < h[0]; i++)
            last = first[i] > last ? first[i] : last;
    free(first);
    if (last < h[1])
        return h[1];
    for (uint64_t chain = buckets + h[0] * sizeof *h; !(link & 1) && last < SYMBOL_MAX; last++)
        if (!read_memory(chain + (uint64_t)(last - h[1]) * sizeof link, &link, sizeof link))
            return 0;
    return last;
}

static void symbols_of_memory(pf_elf *e, const pf_module *m, const dynamic *d, candidates *out)
{
    uint64_t n = dynamic_count(d);
    size_t bytes = n < SYMBOL_MAX ? n * sizeof(ElfW(Sym)) : 0;
    ElfW(Sym) *sym = bytes ? malloc(bytes + d->strsz + 1) : NULL;
    char *names = (char *)sym + bytes;

    if (!sym)
        return;
    e->memory = sym;
    if (!read_memory(d->symtab, sym, bytes) || !read_memory(d->strtab, names, d->strsz))
        return;
    names[d->strsz] = '\0';
    for (size_t i = 1; i < n; i++) {
        int type = ELF64_ST_TYPE(sym[i].st_info);
        uintptr_t at = m->bias + sym[i].st_value;
        if ((type == STT_FUNC || type == STT_GNU_IFUNC) && sym[i].st_shndx != SHN_UNDEF &&
            sym[i].st_size && sym[i].st_name < d->strsz && names[sym[i].st_name] &&
            at >= m->start && at < m->limit &&
            !candidate_add(out, sym[i].st_value, sym[i].st_size, names + sym[i].st_name, type,
                           ELF64_ST_BIND(sym[i].st_info)))
            return;
    }
}

/* The mapped image is still what it was only if its build id is: the module may have been unloaded
 * and another mapped in its place. */
static bool image_is(const pf_module *m, const ElfW(Phdr) * ph)
{
    unsigned char note[4096];
    size_t n = ph->p_memsz < sizeof note ? ph->p_memsz : sizeof note, at = 0;
    char hex[2 * BUILD_ID_BYTES + 1];

    if (!read_memory(m->bias + ph->p_vaddr, note, n))
        return false;
    while (at + sizeof(ElfW(Nhdr)) <= n) {
        ElfW(Nhdr) h;
        memcpy(&h, note + at, sizeof h);
        size_t name = at + sizeof h, desc = name + ((h.n_namesz + 3u) & ~3u);
        if (h.n_namesz > n || h.n_descsz > n || desc + h.n_descsz > n)
            return false;
        if (h.n_type == NT_GNU_BUILD_ID && h.n_namesz == 4 && !memcmp(note + name, "GNU", 4)) {
            hex[0] = '\0';
            for (size_t i = 0; i < h.n_descsz && i < BUILD_ID_BYTES; i++)
                sprintf(hex + 2 * i, "%02x", note[desc + i]);
            return strncmp(hex, m->build_id, sizeof m->build_id - 1) == 0;
        }
        at = desc + ((h.n_descsz + 3u) & ~3u);
    }
    return false;
}

static void image_symbols(pf_elf *e, const pf_module *m, candidates *out)
{
    uintptr_t head = m->bias ? m->bias : m->start - m->offset;
    ElfW(Ehdr) eh;
    ElfW(Phdr) ph, dyn = {0};
    bool same = false;
    dynamic d;

    if (!m->build_id[0] || !read_memory(head, &eh, sizeof eh) ||
        memcmp(eh.e_ident, ELFMAG, SELFMAG) != 0 || eh.e_phentsize != sizeof ph)
        return;
    for (unsigned i = 0; i < eh.e_phnum; i++) {
        if (!read_memory(head + eh.e_phoff + i * sizeof ph, &ph, sizeof ph))
            return;
        if (ph.p_type == PT_DYNAMIC)
            dyn = ph;
        else if (ph.p_type == PT_NOTE && !same)
            same = image_is(m, &ph);
    }
    if (same && dyn.p_type == PT_DYNAMIC && read_dynamic(m, &dyn, &d))
        symbols_of_memory(e, m, &d, out);
}

/* ---- opening and closing ---- */

int pf_elf_open(pf_elf *e, const pf_module *m)
{
    candidates c = {0};
    int r;

    memset(e, 0, sizeof *e);
    e->elf = strcmp(m->path, "[vdso]") == 0 ? vdso_image(e, m) : module_file(m);
    if (!e->elf) {
        image_symbols(e, m, &c);
    } else {
        if (!e->memory && !has_debug_info(e->elf))
            e->debug = debug_file(e->elf, m);
        if (!symbols_of(e->elf, SHT_SYMTAB, &c) && !symbols_of(e->debug, SHT_SYMTAB, &c))
            symbols_of(e->elf, SHT_DYNSYM, &c);
    }
    r = settle(e, &c);
    if (r == 0 && !e->elf && !e->nsymbols)
        r = -ENOENT;
    free(c.v);
    if (r < 0)
        pf_elf_close(e);
    return r;
}

void pf_elf_close(pf_elf *e)
{
    if (e->debug)
        elf_end(e->debug);
    if (e->elf)
        elf_end(e->elf);
    free(e->symbols);
    free(e->memory);
    memset(e, 0, sizeof *e);
}
