/* Boxes -> SVG.
 *
 * Invariants:
 * 1. The picture says all it has to say with no script: labels, tooltips, heading, what was left
 *    out. The script adds zoom, search, keys and the width of the window.
 * 2. Names are hostile: whatever their bytes, the output is well-formed XML in UTF-8. Control
 *    characters, bad sequences and marks that turn the writing direction become U+FFFD.
 * 3. One <style> and one <script>, byte for byte those of flame_assets.c; no attribute holds code
 *    or style, and nothing refers outside the file. So a page can be served under a policy of
 *    hashes.
 * 4. A name has one colour, today and in every other picture: family by module or namespace,
 *    shade by a hash of the name.
 *
 * Places along the x axis are in percent of the graph, so that it can follow the window.
 *
 * No locks.
 */
#include "profiler/present/page/flame.h"
#include "profiler/present/page/flame_layout.h"
#include "proto/measure.h"
#include "proto/utf8.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum { PAD = 10, HEAD = 74, LEVEL = 17, BOX = 16, FOOT = 26, SHADES = 8, LABEL_MIN = 5 };

#define MIN_PX   0.1
#define GLYPH_PX 7.23 /* of the widest common monospace fonts at 12 px */
#define THIN_PX  2.0  /* boxes below get no outline: it would be all of them */

typedef struct picture {
    const pb_profile *p;
    const pb_frames *f;
    const pb_stacks *s;
    const pf_layout *l;
    const char *unit, *type;
    int width;
    FILE *out;
} picture;

/* What must not get into a text node: XML forbids most control characters, and direction marks make
 * a label read as something else. */
static bool printable(uint32_t c)
{
    return c >= ' ' && c != 0x7f && !(c >= 0x80 && c < 0xa0) && !(c >= 0x202a && c <= 0x202e) &&
           !(c >= 0x2066 && c <= 0x2069) && c != 0xfffe && c != 0xffff && c != UINT32_MAX;
}

/* Columns a character takes in a monospace font. */
static size_t columns_of(uint32_t c)
{
    return c >= 0x1100 &&
                   (c <= 0x115f || (c >= 0x2e80 && c <= 0xa4cf) || (c >= 0xac00 && c <= 0xd7a3) ||
                    (c >= 0xf900 && c <= 0xfaff) || (c >= 0xfe30 && c <= 0xfe6f) ||
                    (c >= 0xff00 && c <= 0xff60) || (c >= 0x1f300 && c <= 0x3fffd))
               ? 2
               : 1;
}

static size_t text_columns(const char *s, size_t n)
{
    size_t columns = 0, len;
    for (size_t i = 0; i < n; i += len)
        columns += columns_of(pb_utf8_next(s + i, n - i, &len));
    return columns;
}

/* Escapes at most `columns` columns of the text; what is cut ends in an ellipsis. */
static void put_text(FILE *out, const char *s, size_t columns)
{
    size_t n = strlen(s), len;
    bool cut = columns < n && text_columns(s, n) > columns;
    for (size_t i = 0, at = 0; i < n; i += len) {
        uint32_t c = pb_utf8_next(s + i, n - i, &len);
        at += columns_of(c);
        if (cut && at + 1 > columns) {
            fputs("\342\200\246", out);
            return;
        }
        if (c == '<')
            fputs("&lt;", out);
        else if (c == '>')
            fputs("&gt;", out);
        else if (c == '&')
            fputs("&amp;", out);
        else if (c == '"')
            fputs("&quot;", out);
        else if (c == '\'')
            fputs("&#39;", out);
        else if (!printable(c))
            fputs("\357\277\275", out);
        else
            fwrite(s + i, 1, len, out);
    }
}

/* name=" 12.3456%", without zeros at the end. */
static void put_percent(FILE *out, const char *name, double fraction)
{
    char digits[32];
    fraction = fraction < 0 ? 0 : fraction > 1 ? 1 : fraction;
    int n = snprintf(digits, sizeof digits, "%.4f", fraction * 100);
    while (n > 1 && digits[n - 1] == '0')
        n--;
    if (digits[n - 1] == '.')
        n--;
    fprintf(out, " %s=\"%.*s%%\"", name, n, digits);
}

/* 1234567 as 1,234,567. */
static void grouped(int64_t v, char *buf, size_t n)
{
    char digits[32];
    int len = snprintf(digits, sizeof digits, "%lld", (long long)v);
    size_t at = 0;
    for (int i = 0; i < len && at + 2 < n; i++) {
        buf[at++] = digits[i];
        if ((len - i) % 3 == 1 && i + 1 < len && digits[i] != '-')
            buf[at++] = ',';
    }
    buf[at] = '\0';
}

/* "1.37s", "3.50MB", or "1,234 samples" for what only counts. */
static void value_text(const picture *pic, int64_t v, char *buf, size_t n)
{
    const char *shown = pb_unit_for(v, pic->unit);
    if (*shown) {
        pb_value_text(v, pic->unit, shown, buf, n);
        return;
    }
    const char *what = strcmp(pic->unit, "count") == 0 || !*pic->unit ? pic->type : pic->unit;
    char digits[48];
    grouped(v, digits, sizeof digits);
    snprintf(buf, n, "%s%s%.60s", digits, *what ? " " : "", what);
}

static void put_value(const picture *pic, int64_t v)
{
    char text[128];
    value_text(pic, v, text, sizeof text);
    put_text(pic->out, text, SIZE_MAX);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

static uint32_t hash(const char *s, size_t n)
{
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < n; i++)
        h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h ^ h >> 15;
}

static bool starts_with(const char *s, const char *start)
{
    return strncmp(s, start, strlen(start)) == 0;
}

static bool starts_with_any(const char *s, const char *const *starts, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (starts_with(s, starts[i]))
            return true;
    return false;
}

/* Is this ".part.0" or ".cold": a piece of a C function, not a member of a package? */
static bool compiler_suffix(const char *dot)
{
    static const char *const suffixes[] = {".isra",     ".part", ".cold", ".constprop",
                                           ".lto_priv", ".llvm", ".clone"};
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        char after = starts_with(dot, suffixes[i]) ? dot[strlen(suffixes[i])] : 'x';
        if (!after || after == '.')
            return true;
    }
    return false;
}

/* The length of "std" in std::sort<int>, of "net/http" in net/http.(*conn).serve; 0 for plain C
 * names, also with a compiler's suffix (work.part.0). */
static size_t namespace_of(const char *name)
{
    size_t plain = strcspn(name, "<( ");
    const char *colons = strstr(name, "::"), *dot = NULL;
    if (colons && colons > name && (size_t)(colons - name) < plain)
        return (size_t)(colons - name);
    for (size_t i = 0; i < strcspn(name, " "); i++) {
        if (name[i] == '/')
            dot = NULL;
        else if (name[i] == '.' && !dot)
            dot = name + i;
        else if (name[i] == '[' || name[i] == '<')
            break;
    }
    return !dot || dot == name || compiler_suffix(dot) ? 0 : (size_t)(dot - name);
}

/* The colour family: warm for the program's own plain code, grey for the runtime below it, one of
 * five others for each library or namespace. */
static char family_of(const picture *pic, const pf_box *box)
{
    static const char *const system_files[] = {
        "libc.so", "libc-", "ld-", "libpthread", "libm.", "[vdso", "linux-v", "libgcc", "libweft"};
    static const char *const runtime_names[] = {"weft_", "rt_", "runtime.", "runtime/"};
    const char *name = pic->f->names[box->name];
    int64_t file = pic->f->files[box->name];
    const char *module = base_name(pb_str(pic->p, file));
    size_t n = strlen(name);
    if (n > 4 && strcmp(name + n - 4, "_[k]") == 0)
        return 'k';
    if (starts_with_any(module, system_files, sizeof system_files / sizeof *system_files) ||
        starts_with_any(name, runtime_names, sizeof runtime_names / sizeof *runtime_names))
        return 's';
    if (*module && pic->p->nmappings && file != pic->p->mappings[0].file)
        return "abcde"[hash(module, strlen(module)) % 5];
    size_t space = namespace_of(name);
    if (!space || starts_with(name, "main."))
        return 'w';
    return "abcde"[hash(name, space) % 5];
}

static void put_class(const picture *pic, const pf_box *box, double px)
{
    const char *name = box->depth ? pic->f->names[box->name] : "all";
    size_t n = strlen(name);
    bool inlined = box->inlined || (n > 4 && strcmp(name + n - 4, "_[i]") == 0);
    char family = box->depth ? family_of(pic, box) : 's';
    fprintf(pic->out, "<g class=\"%c%u%s%s\">", family, hash(name, n) % SHADES, inlined ? " i" : "",
            px < THIN_PX ? " n" : "");
}

static void put_box(const picture *pic, const pf_box *box)
{
    const char *name = box->depth ? pic->f->names[box->name] : "all";
    double total = (double)(pic->s->total ? pic->s->total : 1), inner = pic->width - 2 * PAD;
    double x = (double)box->start / total;
    double w = box->depth || pic->s->total ? (double)box->total / total : 1;
    unsigned y = (pic->l->depth_max - box->depth) * LEVEL;
    char share[16];
    put_class(pic, box, w * inner);
    fputs("<title>", pic->out);
    put_text(pic->out, name, SIZE_MAX);
    fputs(box->inlined ? " (inlined)\n" : "\n", pic->out);
    put_value(pic, box->total);
    pb_percent_text(box->total, pic->s->total, share, sizeof share);
    fprintf(pic->out, ", %s", share + strspn(share, " "));
    if (box->self && box->depth) {
        fputs("; self ", pic->out);
        put_value(pic, box->self);
    }
    fputs("</title><rect", pic->out);
    put_percent(pic->out, "x", x);
    fprintf(pic->out, " y=\"%u\"", y);
    put_percent(pic->out, "width", w);
    /* An inlined frame touches its caller: there was no call between them. */
    fprintf(pic->out, " height=\"%d\"/>", box->inlined ? LEVEL : BOX);
    size_t room = w * inner > 8 ? (size_t)((w * inner - 8) / GLYPH_PX) : 0, len = strlen(name);
    if (room >= LABEL_MIN || (room && text_columns(name, len < 32 ? len : 32) <= room)) {
        fputs("<text", pic->out);
        put_percent(pic->out, "x", x);
        fprintf(pic->out, " dx=\"4\" y=\"%u\">", y + 12);
        put_text(pic->out, name, room);
        fputs("</text>", pic->out);
    }
    fputs("</g>\n", pic->out);
}

static void put_title(const picture *pic, const pf_flame_opts *o)
{
    const pb_profile *p = pic->p;
    const char *program = p->nmappings ? base_name(pb_str(p, p->mappings[0].file)) : "";
    if (o && o->title) {
        put_text(pic->out, o->title, 200);
        return;
    }
    put_text(pic->out, *program ? program : "Flame graph", 100);
    fputs(": ", pic->out);
    put_text(pic->out, pic->type, 60);
}

static void put_subtitle(const picture *pic)
{
    const pb_profile *p = pic->p;
    char text[128], share[16];
    if (!pic->s->total)
        fputs("no samples", pic->out);
    else
        put_value(pic, pic->s->total);
    if (p->duration_ns > 0) {
        pb_value_text(p->duration_ns, "nanoseconds", pb_unit_for(p->duration_ns, "nanoseconds"),
                      text, sizeof text);
        fprintf(pic->out, " in %s", text);
        if (pic->s->total && strcmp(pic->unit, "nanoseconds") == 0) {
            pb_percent_text(pic->s->total, p->duration_ns, share, sizeof share);
            fprintf(pic->out, " (%s)", share + strspn(share, " "));
        }
    }
    time_t seconds = (time_t)(p->time_ns / 1000000000);
    struct tm tm;
    if (p->time_ns > 0 && gmtime_r(&seconds, &tm) &&
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm))
        fprintf(pic->out, " \302\267 %s", text);
}

static void put_head(const picture *pic, const pf_flame_opts *o, unsigned height)
{
    size_t n;
    const char *style = pf_flame_style(&n);
    fprintf(pic->out,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%u\" "
            "viewBox=\"0 0 %d %u\" role=\"group\">\n<title>",
            pic->width, height, pic->width, height);
    put_title(pic, o);
    fputs("</title>\n<style>", pic->out);
    fwrite(style, 1, n, pic->out);
    fprintf(pic->out,
            "</style>\n<rect class=\"bg\" width=\"100%%\" height=\"100%%\"/>\n"
            "<svg class=\"frames\" x=\"%d\" y=\"%d\" width=\"%d\" height=\"%u\">\n",
            PAD, HEAD, pic->width - 2 * PAD, (pic->l->depth_max + 1) * LEVEL);
}

static void put_foot(const picture *pic, const pf_flame_opts *o, double min_px, unsigned height)
{
    size_t n;
    const char *script = pf_flame_script(&n);
    fprintf(pic->out, "</svg>\n<text class=\"foot\" x=\"%d\" y=\"%u\">", PAD, height - 9);
    char count[48];
    grouped((int64_t)pic->l->hidden, count, sizeof count);
    if (pic->l->hidden)
        fprintf(pic->out, "%s box%s narrower than %g px left out. ", count,
                pic->l->hidden == 1 ? "" : "es", min_px);
    grouped(pic->s->negative, count, sizeof count);
    if (pic->s->negative)
        fprintf(pic->out, "%s samples below zero left out.", count);
    fprintf(pic->out,
            "</text>\n<g class=\"head\"><rect class=\"bg\" width=\"100%%\" height=\"%d\"/>\n"
            "<text class=\"title\" x=\"%d\" y=\"26\">",
            HEAD - 4, PAD);
    put_title(pic, o);
    fprintf(pic->out, "</text>\n<text class=\"sub\" x=\"%d\" y=\"45\">", PAD);
    put_subtitle(pic);
    fprintf(pic->out,
            "</text>\n<text class=\"info\" x=\"%d\" y=\"64\"></text></g>\n<script><![CDATA[", PAD);
    fwrite(script, 1, n, pic->out);
    fputs("]]></script>\n</svg>\n", pic->out);
}

static int64_t write_picture(picture *pic, const pf_flame_opts *o, double min_px)
{
    unsigned height = HEAD + (pic->l->depth_max + 1) * LEVEL + FOOT;
    errno = 0;
    put_head(pic, o, height);
    for (size_t i = 0; i < pic->l->n; i++)
        put_box(pic, &pic->l->boxes[i]);
    put_foot(pic, o, min_px, height);
    if (fflush(pic->out) || ferror(pic->out))
        return errno ? -errno : -EIO;
    return (int64_t)pic->l->n;
}

int64_t pf_flame_svg(const pb_profile *p, int value_index, const pf_flame_opts *o, FILE *out)
{
    pb_frames f;
    pb_stacks s;
    pf_layout l;
    if (value_index < 0 || (size_t)value_index >= p->ntypes)
        return -EINVAL;
    int width = o && o->width_px > 4 * PAD ? o->width_px : 1200;
    double min_px = !o || o->min_px == 0 ? MIN_PX : o->min_px < 0 ? 0 : o->min_px;
    int64_t rc = pb_frames_new(&f, p, false);
    if (rc)
        return rc;
    rc = pb_stacks_new(&s, p, &f, value_index);
    if (!rc) {
        double least = (double)s.total * min_px / (width - 2 * PAD);
        rc = pf_layout_new(&l, &s, (int64_t)least);
        if (!rc) {
            picture pic = {.p = p, .f = &f, .s = &s, .l = &l, .width = width, .out = out};
            pic.unit = pb_str(p, p->types[value_index].unit);
            pic.type = pb_str(p, p->types[value_index].type);
            rc = write_picture(&pic, o, min_px);
            pf_layout_free(&l);
        }
        pb_stacks_free(&s);
    }
    pb_frames_free(&f);
    return rc;
}
