/* What a reader can do with the flame graph: zoom, search, walk it by keys, turn it over.
 * Everything is read from the boxes as drawn; nothing here depends on the profile. No attribute
 * gets code or style, so the bytes of this script are all that a policy has to allow. */
(function () {
'use strict';
var NS = 'http://www.w3.org/2000/svg', XHTML = 'http://www.w3.org/1999/xhtml';
var PAD = 10, HEAD = 74, LEVEL = 17, FOOT = 26, THIN = 2, LABEL_MIN = 5;
var root = document.currentScript.ownerSVGElement;
var graph = root.querySelector('.frames'), head = root.querySelector('.head');
var info = root.querySelector('.info'), foot = root.querySelector('.foot');
var alone = root === document.documentElement;

/* Boxes stand in the file callers first, so a box's parent is the last one a level up. */
var boxes = [], levels = 0, open = [];
Array.prototype.forEach.call(graph.children, function (g) {
    var title = g.firstElementChild, rect = title.nextElementSibling;
    var lines = title.textContent.split('\n');
    boxes.push({
        g: g, rect: rect, text: rect.nextElementSibling,
        x: parseFloat(rect.getAttribute('x')) / 100,
        w: parseFloat(rect.getAttribute('width')) / 100,
        y: +rect.getAttribute('y'), name: lines[0].replace(/ \(inlined\)$/, ''),
        value: lines[1] || '', inlined: g.classList.contains('i'), kids: []
    });
    levels = Math.max(levels, boxes[boxes.length - 1].y / LEVEL + 1);
    g.box = boxes[boxes.length - 1];
});
boxes.forEach(function (b) {
    b.depth = levels - 1 - b.y / LEVEL;
    b.parent = b.depth ? open[b.depth - 1] : null;
    if (b.parent)
        b.parent.kids.push(b);
    open[b.depth] = b;
});
var all = boxes[0], zoomed = all, flipped = false, width = 0, glyph = 7.23;
var pattern = '', matches = [], current = all, pointed = null, callers = new Set();

function el(parent, name, text) {
    var e = document.createElementNS(XHTML, name);
    if (text)
        e.textContent = text;
    parent.appendChild(e);
    return e;
}

/* The controls exist only where they work. */
var holder = document.createElementNS(NS, 'foreignObject');
holder.setAttribute('y', 8);
holder.setAttribute('height', 30);
head.appendChild(holder);
var tools = el(holder, 'div');
tools.className = 'tools';
var found = el(tools, 'output'), input = el(tools, 'input');
var prev = el(tools, 'button', '\u2190'), next = el(tools, 'button', '\u2192');
var reset = el(tools, 'button', 'Reset zoom'), flip = el(tools, 'button', 'Flip');
input.type = 'search';
input.placeholder = 'Search (regex, Ctrl-F)';
input.setAttribute('aria-label', 'Search frames by regular expression');
prev.title = 'Previous match (Shift-Enter)';
next.title = 'Next match (Enter)';
reset.title = 'Show everything (Escape)';
flip.title = 'Root on top or at the bottom (i)';

function percent(part, whole) {
    var p = whole ? part / whole * 100 : 0;
    return (p >= 99.95 ? '100' : p >= 1 ? p.toFixed(2) : p.toPrecision(2)) + '%';
}

function fit(name, px) {
    var room = Math.floor((px - 8) / glyph);
    if (room > 0 && name.length <= room)
        return name;
    if (room < LABEL_MIN)
        return '';
    var chars = Array.from(name);
    return chars.length <= room ? name : chars.slice(0, room - 1).join('') + '\u2026';
}

function within(b, top) {
    return b.x + b.w > top.x + 1e-9 && b.x < top.x + top.w - 1e-9;
}

function drawBox(b) {
    var above = b.depth < zoomed.depth;
    var hidden = above ? !callers.has(b) : !within(b, zoomed);
    b.g.classList.toggle('h', hidden);
    if (hidden)
        return;
    var x = above ? 0 : (b.x - zoomed.x) / zoomed.w, w = above ? 1 : b.w / zoomed.w;
    var y = flipped ? b.depth * LEVEL + (b.inlined ? -1 : 0) : b.y, px = w * width;
    b.rect.setAttribute('x', x * 100 + '%');
    b.rect.setAttribute('width', w * 100 + '%');
    b.rect.setAttribute('y', y);
    b.g.classList.toggle('up', above);
    b.g.classList.toggle('n', px < THIN);
    var label = fit(b.name, px);
    if (label && !b.text) {
        b.text = document.createElementNS(NS, 'text');
        b.text.setAttribute('dx', 4);
        b.g.appendChild(b.text);
    }
    if (b.text) {
        b.text.textContent = label;
        b.text.setAttribute('x', x * 100 + '%');
        b.text.setAttribute('y', y + 12 + (flipped && b.inlined ? 1 : 0));
    }
}

function draw() {
    callers.clear();
    for (var b = zoomed; b; b = b.parent)
        callers.add(b);
    boxes.forEach(drawBox);
    reset.hidden = zoomed === all;
    say();
}

function zoom(b, silent) {
    zoomed = b;
    current = b;
    draw();
    count();
    if (!silent)
        remember(true);
}

/* The line under the heading is about the box pointed at, else the one that has the keyboard, else
 * what is zoomed to. */
function say() {
    var b = pointed || (document.activeElement && document.activeElement.box) || zoomed;
    var tail = ' \u00b7 ' + b.value;
    if (zoomed !== all && b.depth > zoomed.depth && within(b, zoomed))
        tail += '; ' + percent(b.w, zoomed.w) + ' of ' + fit(zoomed.name, 300);
    var name = b.name + (b.inlined ? ' (inlined)' : '');
    info.textContent = b === all && !pointed ? '' :
        fit(name, Math.max(120, width - tail.length * glyph)) + tail;
}

function search(text) {
    var re = null, bad = false;
    pattern = text;
    matches = [];
    if (text) {
        /* Capitals in the pattern mean that capitals matter. */
        try {
            re = new RegExp(text, /[A-Z]/.test(text.replace(/\\./g, '')) ? '' : 'i');
        } catch (e) {
            bad = true;
        }
    }
    boxes.forEach(function (b) {
        var hit = !!re && b !== all && re.test(b.name);
        b.hit = hit;
        b.g.classList.toggle('m', hit);
        if (hit)
            matches.push(b);
    });
    graph.classList.toggle('q', !!re);
    input.classList.toggle('bad', bad);
    prev.hidden = next.hidden = !matches.length;
    count(bad);
}

/* A match below another match is in its width already. */
function count(bad) {
    var sum = 0, n = 0, end = -1;
    matches.forEach(function (b) {
        if (!within(b, zoomed))
            return;
        n++;
        if (b.x + b.w <= end + 1e-9)
            return;
        var from = Math.max(b.x, zoomed.x, end), to = Math.min(b.x + b.w, zoomed.x + zoomed.w);
        sum += Math.max(0, to - from);
        end = to;
    });
    found.textContent = bad ? 'not a pattern' : !pattern ? '' :
        percent(sum, zoomed.w) + ' in ' + n + (n === 1 ? ' box' : ' boxes');
}

function focus(b) {
    if (!b)
        return;
    current = b;
    b.g.setAttribute('tabindex', -1);
    b.g.setAttribute('role', 'button');
    b.g.focus({preventScroll: true});
    var top = HEAD + +b.rect.getAttribute('y'), view = window.innerHeight;
    if (alone && (top < window.scrollY + HEAD || top + LEVEL > window.scrollY + view))
        window.scrollTo(window.scrollX, top - view / 2);
    say();
}

function step(by) {
    var shown = matches.filter(function (b) {
        return within(b, zoomed) && b.depth >= zoomed.depth;
    });
    if (!shown.length)
        return;
    var n = shown.length, at = shown.indexOf(current);
    focus(shown[(at < 0 ? (by > 0 ? 0 : n - 1) : at + by + n) % n]);
}

/* The nearest box on the same level, or the widest below, or the caller. */
function move(key) {
    var up = flipped ? 'ArrowDown' : 'ArrowUp', down = flipped ? 'ArrowUp' : 'ArrowDown';
    if (key === up) {
        var kids = current.kids.filter(function (b) { return within(b, zoomed); });
        focus(kids.reduce(function (a, b) { return !a || b.w > a.w ? b : a; }, null));
    } else if (key === down) {
        focus(current.parent);
    } else if (current.parent) {
        var row = boxes.filter(function (b) {
            return b.depth === current.depth && within(b, zoomed);
        });
        focus(row[row.indexOf(current) + (key === 'ArrowRight' ? 1 : -1)]);
    }
}

/* The state in the address names frames, not pixels, so it holds for the next profile too. */
function remember(asStep) {
    var parts = [], path = [];
    for (var b = zoomed; b.parent; b = b.parent)
        path.unshift(encodeURIComponent(b.name));
    if (path.length)
        parts.push('zoom=' + path.join(';'));
    if (pattern)
        parts.push('search=' + encodeURIComponent(pattern));
    if (flipped)
        parts.push('flip=1');
    var hash = '#' + parts.join('&');
    if (!alone || hash.length > 60000 || hash === (location.hash || '#'))
        return;
    try {
        history[asStep ? 'pushState' : 'replaceState'](null, '', hash);
    } catch (e) {
        /* A page without an origin may not: the picture works all the same. */
    }
}

function restore() {
    var target = all, want = '';
    flipped = false;
    location.hash.slice(1).split('&').forEach(function (part) {
        var value = part.slice(part.indexOf('=') + 1);
        try {
            if (part.indexOf('zoom=') === 0)
                value.split(';').every(function (name) {
                    name = decodeURIComponent(name);
                    var kid = target.kids.find(function (b) { return b.name === name; });
                    target = kid || target;
                    return kid;
                });
            else if (part.indexOf('search=') === 0)
                want = decodeURIComponent(value);
        } catch (e) {
            /* Not our state. */
        }
        flipped = flipped || part === 'flip=1';
    });
    input.value = want;
    zoom(target, true);
    search(want);
}

function turn() {
    flipped = !flipped;
    draw();
    remember(false);
}

function resize() {
    if (alone) {
        var w = Math.max(400, document.documentElement.clientWidth || window.innerWidth);
        root.setAttribute('width', w);
        root.removeAttribute('viewBox');
        width = w - 2 * PAD;
    } else {
        width = +root.getAttribute('width') - 2 * PAD;
    }
    graph.setAttribute('width', width);
    holder.setAttribute('x', Math.max(0, width - 620 + PAD));
    holder.setAttribute('width', Math.min(620, width));
    draw();
}

function stick() {
    if (alone)
        head.setAttribute('transform', 'translate(' + window.scrollX + ',' + window.scrollY + ')');
}

function boxOf(e) {
    var g = e.target.closest && e.target.closest('.frames > g');
    return g ? g.box : null;
}

graph.addEventListener('click', function (e) {
    var b = boxOf(e);
    if (b) {
        zoom(b);
        focus(b);
    }
});
graph.addEventListener('mouseover', function (e) {
    pointed = boxOf(e);
    say();
});
graph.addEventListener('mouseleave', function () {
    pointed = null;
    say();
});
input.addEventListener('input', function () {
    search(input.value);
    remember(false);
});
prev.addEventListener('click', function () { step(-1); });
next.addEventListener('click', function () { step(1); });
reset.addEventListener('click', function () { zoom(all); });
flip.addEventListener('click', turn);
window.addEventListener('keydown', function (e) {
    var typing = e.target === input, plain = !e.ctrlKey && !e.metaKey && !e.altKey;
    var onBox = document.activeElement && document.activeElement.box;
    var find = ((e.ctrlKey || e.metaKey) && e.key === 'f') || (plain && e.key === '/');
    if (find && !typing) {
        /* A second Ctrl-F, from the box, is the browser's own. */
        e.preventDefault();
        input.focus();
        input.select();
    } else if (typing && e.key === 'Enter') {
        step(e.shiftKey ? -1 : 1);
        e.preventDefault();
    } else if (e.key === 'Escape') {
        if (typing || pattern) {
            input.value = '';
            search('');
            remember(false);
            input.blur();
        } else if (zoomed !== all) {
            zoom(all);
        }
    } else if (typing || !plain || (e.target.closest && e.target.closest('button'))) {
        return;
    } else if (e.key.indexOf('Arrow') === 0 && onBox) {
        move(e.key);
        e.preventDefault();
    } else if (e.key === 'Enter' && onBox) {
        zoom(current);
    } else if (e.key === 'n' || e.key === 'N') {
        step(e.key === 'N' ? -1 : 1);
    } else if (e.key === 'i') {
        turn();
    }
});
window.addEventListener('resize', resize);
window.addEventListener('scroll', stick);
window.addEventListener('hashchange', restore);
window.addEventListener('popstate', restore);

if (all) {
    all.g.setAttribute('tabindex', 0);
    all.g.setAttribute('role', 'button');
    var probe = graph.querySelector('text');
    if (probe && probe.textContent && probe.getComputedTextLength)
        glyph = probe.getComputedTextLength() / Array.from(probe.textContent).length || glyph;
    prev.hidden = next.hidden = true;
    resize();
    restore();
    /* The root is the part to start from, so a tall picture opens at its foot. */
    if (alone && !flipped)
        window.scrollTo(0, HEAD + levels * LEVEL + FOOT);
    stick();
}
}());
