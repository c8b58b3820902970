// SPDX-License-Identifier: MIT
/*
 * libFuzzer harness of the kernel-log classifier (`make fuzz`); the fixtures are its corpus.
 *
 * It checks what no input may break: every event fits its JSON buffer, the watermark holds, and feeding a log in pieces
 * gives the same events as feeding it whole.
 */
#include "record/klog.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct pass {
	struct klog *k;
	uint64_t events, hash, index;
	uint64_t low; /* no event may come below this */
};

static char json[KLOG_JSON_MAX];

static void on_event(struct klog_event *ev, void *arg)
{
	struct pass *p = arg;
	struct jsonw j;
	size_t len;

	if (ev->raw_len > KLOG_RAW_MAX || ev->raw[ev->raw_len] || memchr(ev->raw, '\0', ev->raw_len))
		abort();
	if (ev->index < p->low || ev->index > p->index + 1)
		abort();
	jsonw_init(&j, json, sizeof(json));
	klog_event_json(&j, ev, -123456789);
	len = jsonw_line(&j);
	if (!len)
		abort();
	for (size_t i = 0; i < len; i++)
		p->hash = (p->hash ^ (unsigned char)json[i]) * UINT64_C(1099511628211);
	p->events++;
}

static void on_record(const struct klog_record *rec, void *arg)
{
	struct pass *p = arg;

	p->index++;
	klog_feed(p->k, rec);
	p->low = klog_watermark(p->k);
}

static struct pass run(const uint8_t *data, size_t size, size_t chunk)
{
	struct pass p = { 0 };
	struct klog_reader *r = klog_reader_new(on_record, &p);

	p.k = klog_new(on_event, &p);
	if (!p.k || !r)
		abort();
	klog_reader_detect(r, (const char *)data, size);
	for (size_t i = 0; i < size; i += chunk)
		klog_reader_push(r, (const char *)data + i, size - i < chunk ? size - i : chunk);
	klog_reader_finish(r);
	klog_flush(p.k);
	klog_reader_free(r);
	klog_free(p.k);
	return p;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct pass whole = run(data, size, size ? size : 1);
	struct pass parts = run(data, size, 1 + size / 7);

	if (whole.events != parts.events || whole.hash != parts.hash)
		abort();
	return 0;
}
