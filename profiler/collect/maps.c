/* Which module is where: the executable segments of the process with their files and build ids.
 *
 * Invariants:
 *  1. The program itself is first, as pprof's "File:" wants; the rest in the loader's order.
 *  2. The vDSO is a module like any other, named "[vdso]" (H27).
 *  3. Build ids are read from the notes in memory, not from the file: the file may have been
 *     replaced since (H63).
 *  4. The loader's lock is taken (dl_iterate_phdr), so this is never called from a hook or a
 *     handler (H1, H5).
 *
 * Rejected: reading /proc/self/maps here. It gives no bias and no build id without opening each
 * file, and splits a segment where the program has changed its protection.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "profiler/collect/pf.h"
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

typedef struct listing {
    pf_raw *raw;
    size_t n, cap; /* cap 0: counting only */
    bool first, out_of_memory;
} listing;

static const char *copy_text(pf_raw *raw, const char *s, size_t n)
{
    char *to = pf_raw_alloc(raw, n + 1);
    if (to)
        memcpy(to, s, n);
    return to;
}

static const char *module_path(listing *l, const struct dl_phdr_info *info, bool is_vdso)
{
    static const char deleted[] = " (deleted)";
    char path[PATH_MAX];
    if (is_vdso)
        return "[vdso]";
    if (!l->first)
        return copy_text(l->raw, info->dlpi_name, strlen(info->dlpi_name));
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (n <= 0)
        return "";
    path[n] = 0;
    size_t tail = sizeof(deleted) - 1;
    if ((size_t)n > tail && !strcmp(path + n - tail, deleted))
        n -= (ssize_t)tail;
    return copy_text(l->raw, path, (size_t)n);
}

static size_t padded(size_t n)
{
    return (n + 3) & ~(size_t)3;
}

static void find_build_id(const struct dl_phdr_info *info, char out[65])
{
    static const char hex[] = "0123456789abcdef";
    out[0] = 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_NOTE || ph->p_align > 8)
            continue;
        const char *at = (const char *)(info->dlpi_addr + ph->p_vaddr), *end = at + ph->p_memsz;
        while ((size_t)(end - at) >= sizeof(ElfW(Nhdr))) {
            const ElfW(Nhdr) *note = (const void *)at;
            const char *name = at + sizeof(*note);
            const unsigned char *id = (const unsigned char *)name + padded(note->n_namesz);
            if (padded(note->n_namesz) + padded(note->n_descsz) > (size_t)(end - name))
                break;
            if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 && !memcmp(name, "GNU", 4)) {
                size_t n = note->n_descsz < 32 ? note->n_descsz : 32;
                for (size_t b = 0; b < n; b++) {
                    out[2 * b] = hex[id[b] >> 4];
                    out[2 * b + 1] = hex[id[b] & 15];
                }
                out[2 * n] = 0;
                return;
            }
            at = (const char *)id + padded(note->n_descsz);
        }
    }
}

static int visit(struct dl_phdr_info *info, size_t size, void *arg)
{
    (void)size;
    listing *l = arg;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), vdso = getauxval(AT_SYSINFO_EHDR);
    const char *path = NULL;
    for (int i = 0; i < info->dlpi_phnum && !l->out_of_memory; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X) || !ph->p_memsz)
            continue;
        if (l->n++ >= l->cap)
            continue;
        pf_module *m = &l->raw->modules[l->raw->nmodules];
        uintptr_t start = info->dlpi_addr + ph->p_vaddr;
        m->start = start & ~(page - 1);
        m->limit = (start + ph->p_memsz + page - 1) & ~(page - 1);
        m->offset = ph->p_offset & ~(uint64_t)(page - 1);
        m->bias = info->dlpi_addr;
        if (!path)
            path = module_path(l, info, vdso && m->start <= vdso && vdso < m->limit);
        l->out_of_memory = !path;
        m->path = path;
        find_build_id(info, m->build_id);
        l->raw->nmodules++;
    }
    l->first = false;
    return 0;
}

int pf_raw_modules(pf_raw *raw)
{
    listing count = {.raw = raw, .first = true};
    dl_iterate_phdr(visit, &count);
    /* A few more, for what is loaded between the two passes; what does not fit is left out. */
    listing l = {.raw = raw, .first = true, .cap = count.n + 16};
    raw->nmodules = 0;
    if (!(raw->modules = pf_raw_alloc(raw, l.cap * sizeof(*raw->modules))))
        return -ENOMEM;
    dl_iterate_phdr(visit, &l);
    return l.out_of_memory ? -ENOMEM : 0;
}
