/* Addresses -> names, when a profile is written. A module's files are opened when the first of its
 * addresses is asked for, and every answer is kept, so a second profile of the same code costs a
 * hash look-up for each address.
 *
 * Invariants
 *  1. An image is known by path and build id, an answer by image and ELF address: a library that is
 *     unloaded and mapped elsewhere, or another one mapped in its place, cannot be mistaken (H31).
 *  2. No address of the process is dereferenced here or below.
 *  3. Each address gets at least one frame with a name: DWARF's, else the symbol table's, else one
 *     made of the module's base name and the ELF address, "[libx.so+0x1234]".
 *  4. What begin..end hands out stays until end: the cache is emptied only at begin.
 *
 * Locks: `lock`, the last of present's ranks, is held from begin to end; it also serializes libdw,
 * which is not safe for several threads. It is never held while bytes go to a client.
 *
 * Rejected: pthread_atfork to keep the cache whole in children: fork would wait for a naming that
 * can take seconds. A child forgets instead (pf_symbols_forget) and leaks what the parent had.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "present.h"

#define FRAMES_MAX 128
#define PLACES_MAX (1u << 18) /* about 40 MiB; a process that samples more distinct addresses */
#define IMAGES_MAX 1024       /* or loads more libraries starts again with an empty cache */
#define MEMO       64

typedef struct slot {
    uint64_t vaddr;
    pf_place *place; /* NULL: free */
} slot;

typedef struct image {
    char *path, build_id[sizeof((pf_module *)0)->build_id];
    pf_elf elf;
    pf_dwarf *dwarf;
    slot *slots; /* open addressing, a power of two, at most half full */
    size_t nslots, nplaces;
} image;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct {
    image **images;
    size_t nimages, nplaces;
    struct {
        const pf_module *module;
        image *image;
    } memo[MEMO]; /* of this begin..end only: modules are the snapshot's */
} cache;

#define SYNTHETIC(text)                                                                            \
    {                                                                                              \
        .nframes = 1, .named = true, .debug_info = true, .frames = { {text, text, "", 0} }         \
    }
static const struct fixed_place {
    uint32_t nframes;
    bool named, debug_info;
    uint64_t entry;
    pf_frame frames[1];
} fixed[PF_SYNTHETIC_END] = {
    [0] = SYNTHETIC("[null]"),
    [PF_TRUNCATED] = SYNTHETIC("[truncated]"),
    [PF_LOST_FULL] = SYNTHETIC("[lost: buffer full]"),
    [PF_LOST_NESTED] = SYNTHETIC("[lost: nested signal]"),
    [PF_LOST_MEMORY] = SYNTHETIC("[lost: out of memory]"),
    [PF_NO_STACK] = SYNTHETIC("[no stack]"),
    [PF_SCHEDULER] = SYNTHETIC("[scheduler]"),
    [PF_NOT_STARTED] = SYNTHETIC("[not started]"),
    [PF_RUNNING_ELSEWHERE] = SYNTHETIC("[running]"),
};
static const struct fixed_place unknown = {1, false, false, 0, {{"[unknown]", "[unknown]", "", 0}}};
static const struct fixed_place no_memory = {
    1, false, false, 0, {{"[out of memory]", "[out of memory]", "", 0}}};
_Static_assert(offsetof(struct fixed_place, frames) == offsetof(pf_place, frames),
               "a fixed place is read as a pf_place");

/* ---- images ---- */

static void image_free(image *im)
{
    for (size_t i = 0; i < im->nslots; i++)
        free(im->slots[i].place);
    free(im->slots);
    pf_dwarf_close(im->dwarf);
    pf_elf_close(&im->elf);
    free(im->path);
    free(im);
}

static image *image_new(const pf_module *m)
{
    image **all = realloc(cache.images, (cache.nimages + 1) * sizeof *all);
    image *im = all ? calloc(1, sizeof *im) : NULL;

    if (all)
        cache.images = all;
    if (!im || !(im->path = strdup(m->path))) {
        free(im);
        return NULL;
    }
    memcpy(im->build_id, m->build_id, sizeof im->build_id);
    if (pf_elf_open(&im->elf, m) == 0)
        im->dwarf = pf_dwarf_open(im->elf.debug ? im->elf.debug : im->elf.elf);
    cache.images[cache.nimages++] = im;
    return im;
}

static image *image_of(const pf_module *m)
{
    size_t at = ((uintptr_t)m / sizeof *m) % MEMO;

    if (cache.memo[at].module == m)
        return cache.memo[at].image;
    image *im = NULL;
    for (size_t i = 0; !im && i < cache.nimages; i++)
        if (strcmp(cache.images[i]->path, m->path) == 0 &&
            strcmp(cache.images[i]->build_id, m->build_id) == 0)
            im = cache.images[i];
    if (!im)
        im = image_new(m);
    cache.memo[at].module = m;
    cache.memo[at].image = im;
    return im;
}

static slot *slot_of(slot *slots, size_t nslots, uint64_t vaddr)
{
    size_t i = (vaddr * 0x9e3779b97f4a7c15u) >> 32 & (nslots - 1);

    while (slots[i].place && slots[i].vaddr != vaddr)
        i = (i + 1) & (nslots - 1);
    return &slots[i];
}

static bool image_grow(image *im)
{
    size_t n = im->nslots ? 2 * im->nslots : 64;
    slot *slots = calloc(n, sizeof *slots);

    if (!slots)
        return false;
    for (size_t i = 0; i < im->nslots; i++)
        if (im->slots[i].place)
            *slot_of(slots, n, im->slots[i].vaddr) = im->slots[i];
    free(im->slots);
    im->slots = slots;
    im->nslots = n;
    return true;
}

/* ---- places ---- */

/* A made-up name lives behind the frames in the same block. */
static pf_place *place_new(const pf_frame *frames, uint32_t n, const char *made)
{
    size_t bytes = sizeof(pf_place) + n * sizeof *frames, extra = made ? strlen(made) + 1 : 0;
    pf_place *p = malloc(bytes + extra);

    if (!p)
        return NULL;
    *p = (pf_place){.nframes = n};
    memcpy(p->frames, frames, n * sizeof *frames);
    if (made)
        p->frames[n - 1].name = p->frames[n - 1].system_name = strcpy((char *)p + bytes, made);
    return p;
}

static void made_up_name(const char *path, uint64_t vaddr, char *to, size_t n)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *deleted;
    int len = (int)strlen(base);

    if ((deleted = strstr(base, " (deleted)")))
        len = (int)(deleted - base);
    if (len > 1 && base[0] == '[' && base[len - 1] == ']') {
        base++;
        len -= 2;
    }
    snprintf(to, n, "[%.*s+0x%llx]", len > 200 ? 200 : len, base, (unsigned long long)vaddr);
}

static pf_place *resolve(image *im, uint64_t vaddr)
{
    pf_frame frames[FRAMES_MAX] = {{NULL, NULL, "", 0}};
    const pf_symbol *sym = NULL;
    char made[256];
    uint64_t entry = vaddr;
    uint32_t n = im->dwarf ? pf_dwarf_find(im->dwarf, vaddr, frames, FRAMES_MAX, &entry) : 0;
    bool debug_info = n > 0, named = true;

    if (n == 0)
        n = 1;
    if (!frames[n - 1].name) {
        sym = pf_elf_symbol(&im->elf, vaddr);
        if (sym) {
            frames[n - 1].name = frames[n - 1].system_name = sym->name;
            entry = sym->start;
        } else {
            named = false;
            made_up_name(im->path, vaddr, made, sizeof made);
        }
    }
    pf_place *p = place_new(frames, n, named ? NULL : made);
    if (p) {
        p->named = named;
        p->debug_info = debug_info;
        p->entry = entry;
    }
    return p;
}

const pf_place *pf_symbol_find(const pf_module *m, uintptr_t address)
{
    if (address < PF_SYNTHETIC_END)
        return (const pf_place *)&fixed[address];
    if (!m)
        return (const pf_place *)&unknown;

    image *im = image_of(m);
    uint64_t vaddr = address - m->bias;
    if (!im || (im->nplaces * 2 >= im->nslots && !image_grow(im)))
        return (const pf_place *)&no_memory;
    slot *s = slot_of(im->slots, im->nslots, vaddr);
    if (!s->place) {
        pf_place *p = resolve(im, vaddr);
        if (!p)
            return (const pf_place *)&no_memory;
        *s = (slot){vaddr, p};
        im->nplaces++;
        cache.nplaces++;
    }
    return s->place;
}

void pf_symbols_begin(void)
{
    pthread_mutex_lock(&lock);
    memset(cache.memo, 0, sizeof cache.memo);
    if (cache.nplaces <= PLACES_MAX && cache.nimages <= IMAGES_MAX)
        return;
    for (size_t i = 0; i < cache.nimages; i++)
        image_free(cache.images[i]);
    free(cache.images);
    memset(&cache, 0, sizeof cache);
}

void pf_symbols_end(void)
{
    pthread_mutex_unlock(&lock);
}

void pf_symbols_forget(void)
{
    lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    memset(&cache, 0, sizeof cache);
}
