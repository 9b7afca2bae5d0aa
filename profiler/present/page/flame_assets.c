/* The script and the style of the flame graph, taken into the object file as they are: as files of
 * their own they can be linted, and no build step can change a byte that a server allows by hash.
 * (.incbin is found from the root of the tree, where everything is compiled.)
 */
#include "profiler/present/page/flame.h"

__asm__(".section .rodata\n"
        ".balign 16\n"
        ".globl pf_flame_js\n.hidden pf_flame_js\n"
        "pf_flame_js:\n.incbin \"profiler/present/page/flame.js\"\n"
        ".globl pf_flame_js_end\n.hidden pf_flame_js_end\n"
        "pf_flame_js_end:\n.byte 0\n"
        ".globl pf_flame_css\n.hidden pf_flame_css\n"
        "pf_flame_css:\n.incbin \"profiler/present/page/flame.css\"\n"
        ".globl pf_flame_css_end\n.hidden pf_flame_css_end\n"
        "pf_flame_css_end:\n.byte 0\n"
        ".previous\n");

extern const char pf_flame_js[], pf_flame_js_end[], pf_flame_css[], pf_flame_css_end[];

const char *pf_flame_script(size_t *n)
{
    *n = (size_t)(pf_flame_js_end - pf_flame_js);
    return pf_flame_js;
}

const char *pf_flame_style(size_t *n)
{
    *n = (size_t)(pf_flame_css_end - pf_flame_css);
    return pf_flame_css;
}
