/* Flags of the `weft` command. One or two dashes, "=value" or the next word, as people know them
 * from both go tool pprof and the rest of the world; flags may stand behind the operand.
 *
 * A flag that the command does not take is an error that names it: a profile that silently ignores
 * half of its command line answers another question than the one asked.
 */
#include "tools/weft_tool.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

int tool_error(const char *thing, const char *fmt, ...)
{
    char line[1024];
    int at = snprintf(line, sizeof line, "weft: %.400s: ", thing);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line + at, sizeof line - (size_t)at, fmt, ap);
    va_end(ap);
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            *c = ' ';
    fprintf(stderr, "%s\n", line);
    return TOOL_FAILED;
}

/* pprof's one-word forms of -sample_index. */
static const struct {
    const char *flag, *column;
} shortcuts[] = {
    {"inuse_space", "inuse_space"}, {"inuse_objects", "inuse_objects"},
    {"alloc_space", "alloc_space"}, {"alloc_objects", "alloc_objects"},
    {"contentions", "contentions"}, {"total_delay", "delay"},
};

static bool takes(const tool_command *c, const char *flag)
{
    size_t n = strlen(flag);
    for (const char *at = c->flags; (at = strstr(at, flag)); at += n)
        if ((at == c->flags || at[-1] == ' ') && (at[n] == ' ' || !at[n]))
            return true;
    return false;
}

static int number(const char *flag, const char *text, long least, long *out)
{
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    if (errno || *end || end == text || *out < least || *out > INT_MAX) {
        tool_error(flag, "\"%s\" is not a number of at least %ld", text, least);
        return TOOL_USAGE;
    }
    return TOOL_OK;
}

/* A flag with a value. */
static int take_value(tool_args *a, const char *flag, const char *value)
{
    if (strcmp(flag, "o") == 0 || strcmp(flag, "output") == 0)
        a->output = value;
    else if (strcmp(flag, "sample_index") == 0)
        a->sample_index = value;
    else if (strcmp(flag, "title") == 0)
        a->title = value;
    else if (strcmp(flag, "diff") == 0)
        a->diff = value;
    else if (strcmp(flag, "seconds") == 0)
        return number("--seconds", value, 1, &a->seconds);
    else if (strcmp(flag, "width") == 0)
        return number("--width", value, 200, &a->width);
    else
        return number("-n", value, 0, &a->n);
    return TOOL_OK;
}

static int unknown(const tool_command *c, const char *word)
{
    tool_error(word, "unknown flag of weft %s (weft %s --help lists them)", c->name, c->name);
    return TOOL_USAGE;
}

/* argv[*i] begins with a dash. */
static int take_flag(tool_args *a, const tool_command *c, int argc, char **argv, int *i)
{
    const char *word = argv[*i], *flag = word + 1 + (word[1] == '-');
    size_t n = strcspn(flag, "=");
    char name[32];
    if (!n || n >= sizeof name)
        return unknown(c, word);
    memcpy(name, flag, n);
    name[n] = '\0';
    for (size_t k = 0; k < sizeof shortcuts / sizeof *shortcuts; k++)
        if (strcmp(name, shortcuts[k].flag) == 0 && !flag[n]) {
            a->sample_index = shortcuts[k].column;
            return TOOL_OK;
        }
    if (!takes(c, name))
        return unknown(c, word);
    if (strcmp(name, "cum") == 0) {
        a->cum = true;
        return flag[n] ? unknown(c, word) : TOOL_OK;
    }
    if (!flag[n] && *i + 1 >= argc) {
        tool_error(word, "needs a value");
        return TOOL_USAGE;
    }
    return take_value(a, name, flag[n] ? flag + n + 1 : argv[++*i]);
}

int tool_args_parse(tool_args *a, const tool_command *c, int argc, char **argv)
{
    *a = (tool_args){.command = c->name, .n = -1};
    bool flags = true;
    for (int i = 0; i < argc; i++) {
        int rc = TOOL_OK;
        if (flags && strcmp(argv[i], "--") == 0) {
            flags = false;
        } else if (flags && argv[i][0] == '-' && argv[i][1]) {
            rc = take_flag(a, c, argc, argv, &i);
        } else if (a->profile) {
            tool_error(argv[i], "one profile is enough, and %s is there already", a->profile);
            rc = TOOL_USAGE;
        } else {
            a->profile = argv[i];
        }
        if (rc)
            return rc;
    }
    if (!a->profile || !*a->profile) {
        tool_error(c->name, "which profile? (a file, -, http://HOST:PORT or unix:/path)");
        return TOOL_USAGE;
    }
    return TOOL_OK;
}
