/* Function names for crash reports: pc -> "function+0xoffset", from the ELF symbol table of the
 * file that is mapped there.
 *
 * Invariants:
 *  1. No malloc, no lock that can wait, no loader call, no libc call: a report may be written from
 *     a signal handler, by a program whose heap is broken.
 *  2. Every offset read from a file is checked against the file's size before it is used.
 *  3. A file that is no longer the one that was mapped (its inode differs) gives no names (H63).
 *  4. Files stay mapped: a report has thousands of frames in a handful of files. The few bytes of
 *     address space are given back with the process, which is about to end.
 *
 * `busy` admits one thread at a time; a second one gets no name instead of waiting.
 *
 * Rejected: dladdr. It takes the loader's lock, and knows exported symbols only, so that a
 * program's own functions have no names.
 */
#include "profiler/collect/pf.h"
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>

enum { FILES = 16, LINE = 512 };

typedef struct file {
    uintptr_t start, limit;     /* mapped executable range */
    uint64_t offset;            /* of start in the file */
    const unsigned char *bytes; /* the file, NULL: cannot be read */
    size_t size;
} file;

static file files[FILES];
static unsigned next_file;
static atomic_flag busy = ATOMIC_FLAG_INIT;

/* ---- /proc/self/maps ---- */

typedef struct reader {
    int fd;
    long n, at;
    char buf[1024];
} reader;

/* One line without its newline, cut at size; false at the end. */
static bool read_line(reader *r, char *line, size_t size)
{
    size_t n = 0;
    for (;;) {
        if (r->at == r->n) {
            r->at = 0;
            r->n = pf_syscall4(SYS_read, r->fd, (long)r->buf, sizeof(r->buf), 0);
            if (r->n <= 0) {
                r->n = 0;
                return false;
            }
        }
        char c = r->buf[r->at++];
        if (c == '\n')
            break;
        if (n < size - 1)
            line[n++] = c;
    }
    line[n] = 0;
    return true;
}

static const char *parse_number(const char *s, unsigned base, uint64_t *out)
{
    uint64_t v = 0;
    for (;; s++) {
        unsigned digit = *s >= '0' && *s <= '9'   ? (unsigned)(*s - '0')
                         : *s >= 'a' && *s <= 'f' ? (unsigned)(*s - 'a' + 10)
                                                  : 16;
        if (digit >= base)
            break;
        v = v * base + digit;
    }
    *out = v;
    return s;
}

/* "start-limit perms offset dev inode path"; the path, or NULL when the line is something else. */
static const char *parse_line(const char *s, file *f, uint64_t *inode)
{
    uint64_t start, limit;
    s = parse_number(s, 16, &start);
    if (*s++ != '-')
        return NULL;
    s = parse_number(s, 16, &limit);
    f->start = start;
    f->limit = limit;
    while (*s == ' ')
        s++;
    while (*s && *s != ' ') /* permissions */
        s++;
    while (*s == ' ')
        s++;
    s = parse_number(s, 16, &f->offset);
    while (*s == ' ')
        s++;
    while (*s && *s != ' ') /* device */
        s++;
    while (*s == ' ')
        s++;
    s = parse_number(s, 10, inode);
    while (*s == ' ')
        s++;
    return *s == '/' ? s : NULL;
}

static void map_file(file *f, const char *path, uint64_t inode)
{
    struct stat st;
    int fd = (int)pf_syscall4(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (pf_syscall4(SYS_fstat, fd, (long)&st, 0, 0) == 0 && st.st_ino == inode && st.st_size > 0) {
        long p = pf_syscall6(SYS_mmap, 0, st.st_size, 1 /* READ */, 2 /* PRIVATE */, fd, 0);
        if (p > 0 || p < -4095) {
            f->bytes = (const unsigned char *)p;
            f->size = (size_t)st.st_size;
        }
    }
    pf_syscall4(SYS_close, fd, 0, 0, 0);
}

static file *find_file(uintptr_t pc)
{
    for (unsigned i = 0; i < FILES; i++)
        if (pc >= files[i].start && pc < files[i].limit)
            return &files[i];
    static const char maps[] = "/proc/self/maps";
    reader r = {.fd = (int)pf_syscall4(SYS_openat, AT_FDCWD, (long)maps, O_RDONLY | O_CLOEXEC, 0)};
    if (r.fd < 0)
        return NULL;
    file *result = NULL;
    char line[LINE];
    while (!result && read_line(&r, line, sizeof(line))) {
        file f = {0};
        uint64_t inode;
        const char *path = parse_line(line, &f, &inode);
        if (!path || pc < f.start || pc >= f.limit)
            continue;
        file *place = &files[next_file++ % FILES];
        if (place->bytes)
            pf_unmap((void *)place->bytes, place->size);
        map_file(&f, path, inode);
        *place = f;
        result = place;
    }
    pf_syscall4(SYS_close, r.fd, 0, 0, 0);
    return result;
}

/* ---- ELF ---- */

static const void *at_offset(const file *f, uint64_t off, uint64_t n)
{
    return off <= f->size && n <= f->size - off ? f->bytes + off : NULL;
}

/* The address that the linker gave to the byte at this file offset; 0: in no segment. */
static uint64_t linked_address(const file *f, const Elf64_Ehdr *eh, uint64_t off)
{
    for (unsigned i = 0; i < eh->e_phnum; i++) {
        const Elf64_Phdr *ph = at_offset(f, eh->e_phoff + i * sizeof(*ph), sizeof(*ph));
        if (ph && ph->p_type == PT_LOAD && off >= ph->p_offset && off - ph->p_offset < ph->p_filesz)
            return off - ph->p_offset + ph->p_vaddr;
    }
    return 0;
}

/* The function of this table that holds addr: its name and start. */
static const char *search(const file *f, const Elf64_Shdr *table, const Elf64_Shdr *strings,
                          uint64_t addr, uint64_t *start)
{
    const Elf64_Sym *sym = at_offset(f, table->sh_offset, table->sh_size);
    const char *text = at_offset(f, strings->sh_offset, strings->sh_size);
    if (!sym || !text || !strings->sh_size || text[strings->sh_size - 1])
        return NULL;
    for (uint64_t i = 0; i < table->sh_size / sizeof(*sym); i++) {
        unsigned type = ELF64_ST_TYPE(sym[i].st_info);
        if ((type != STT_FUNC && type != STT_GNU_IFUNC) || sym[i].st_shndx == SHN_UNDEF ||
            addr < sym[i].st_value || addr - sym[i].st_value >= sym[i].st_size ||
            sym[i].st_name >= strings->sh_size)
            continue;
        *start = sym[i].st_value;
        return text + sym[i].st_name;
    }
    return NULL;
}

static const char *find_symbol(const file *f, uint64_t off, uint64_t *delta)
{
    const Elf64_Ehdr *eh = at_offset(f, 0, sizeof(*eh));
    if (!eh || eh->e_ident[EI_MAG0] != ELFMAG0 || eh->e_ident[EI_MAG1] != ELFMAG1 ||
        eh->e_ident[EI_MAG2] != ELFMAG2 || eh->e_ident[EI_MAG3] != ELFMAG3 ||
        eh->e_ident[EI_CLASS] != ELFCLASS64)
        return NULL;
    uint64_t addr = linked_address(f, eh, off), start;
    static const uint32_t kinds[] = {SHT_SYMTAB, SHT_DYNSYM};
    for (unsigned k = 0; addr && k < 2; k++)
        for (unsigned i = 0; i < eh->e_shnum; i++) {
            const Elf64_Shdr *sh = at_offset(f, eh->e_shoff + i * sizeof(*sh), sizeof(*sh));
            const Elf64_Shdr *strings =
                sh && sh->sh_type == kinds[k]
                    ? at_offset(f, eh->e_shoff + sh->sh_link * sizeof(*sh), sizeof(*sh))
                    : NULL;
            const char *name = strings ? search(f, sh, strings, addr, &start) : NULL;
            if (name) {
                *delta = addr - start;
                return name;
            }
        }
    return NULL;
}

/* ---- text ---- */

static int put(char *buf, size_t n, int at, const char *text)
{
    for (; *text && (size_t)at + 1 < n; text++)
        buf[at++] = *text;
    buf[at] = 0;
    return at;
}

static int put_hex(char *buf, size_t n, int at, uint64_t v)
{
    char digits[19] = "0x";
    int len = 2;
    for (int shift = 60; shift >= 0; shift -= 4)
        if (v >> shift || !shift)
            digits[len++] = "0123456789abcdef"[v >> shift & 15];
    digits[len] = 0;
    return put(buf, n, at, digits);
}

int pf_elf_name(uintptr_t pc, char *buf, size_t n)
{
    if (!n)
        return 0;
    buf[0] = 0;
    if (pc + 1 == PF_TRUNCATED) /* reports look up pc - 1 */
        return put(buf, n, 0, "[truncated]");
    /* acquire: partner is the clear below */
    if (atomic_flag_test_and_set_explicit(&busy, memory_order_acquire))
        return 0;
    file *f = find_file(pc);
    uint64_t delta;
    const char *name = f && f->bytes ? find_symbol(f, pc - f->start + f->offset, &delta) : NULL;
    int len = 0;
    if (name) {
        len = put(buf, n, 0, name);
        len = put(buf, n, len, "+");
        len = put_hex(buf, n, len, delta);
    }
    atomic_flag_clear_explicit(&busy, memory_order_release);
    return len;
}
