// What nginx cannot say in its own words: a digest, text for the log, the state of the workers.
import crypto from 'crypto';
import fs from 'fs';

const PROBLEM = {
    type: 'urn:dcgan:problem:unavailable',
    title: 'The model does not answer yet',
    status: 503,
    detail: 'Not every worker is READY; ask again in a moment.',
};

function digest(r) {
    const key = r.variables.api_key;
    return key ? crypto.createHash('sha256').update(key).digest('hex') : '';
}

// Bytes as printable ASCII; the others as \xHH.
function escaped(bytes) {
    let text = '';
    for (let i = 0; i < bytes.length; i++) {
        text += bytes[i] >= 0x20 && bytes[i] <= 0x7e
            ? String.fromCharCode(bytes[i]) : `\\x${(256 + bytes[i]).toString(16).slice(1)}`;
    }
    return text;
}

function escapedUri(r) {
    return escaped(r.rawVariables.uri);
}

function escapedAgent(r) {
    return escaped(r.rawVariables.http_user_agent);
}

// All lines of a header, with commas between.
function accept(r) {
    return r.headersIn['Accept'] || '';
}

function contentEncoding(r) {
    return r.headersIn['Content-Encoding'] || '';
}

// Whether TorchServe's decoder (Netty 4.1.53) takes a form; on others it fails with a 500. It takes
// what follows the last & without a name, and a line break at the end.
function urlencodedIsRead(text) {
    return !/%(?![0-9A-Fa-f]{2})/.test(text)
        && !/[\r\n]/.test(text.replace(/\r?\n?$/, ''))
        && !/(?:^|&)(?:[+\t\v\f ]|%0[9A-Da-d]|%20)*[=&]/.test(text);
}

const CHARSET = '(?:[ \\t]*;[ \\t]*charset="?(?:utf-8|us-ascii|iso-8859-1)"?)?';
const MULTIPART = new RegExp(
    `^multipart/form-data${CHARSET}[ \\t]*;[ \\t]*boundary=("[^"\\\\]+"|[^\\s";]+)${CHARSET}[ \\t]*$`, 'i');
const HEADERS_OF_A_PART = {
    'content-disposition': new RegExp(
        '^form-data[ \\t]*;[ \\t]*name=("[^"\\\\]*[^\\s:;,="\\\\][^"\\\\]*"|[^\\s:;,="\\\\]+)'
        + '(?:[ \\t]*;[ \\t]*filename="[^"\\\\]*")?'
        + "(?:[ \\t]*;[ \\t]*filename\\*=(?:utf-8|us-ascii|iso-8859-1)'[a-z-]*'(?:[^\\s\";%]|%[0-9a-f]{2})*)?$",
        'i'),
    'content-type': new RegExp(`^(?!multipart/)[^;]*${CHARSET}$`, 'i'),
    'content-transfer-encoding': /^(?:7bit|8bit|binary)$/i,
};

function multipartIsRead(type, text) {
    if (!/boundary/i.test(type)) {
        return true;  // then it is no form to the decoder
    }
    const found = MULTIPART.exec(type);
    if (found === null) {
        return false;
    }
    const parts = text.split(`--${found[1].replace(/"/g, '')}`).slice(1);
    for (let i = 0; i < parts.length && !parts[i].startsWith('--'); i++) {
        const end = /\n\r?\n/.exec(parts[i]);
        if (end === null) {
            return false;
        }
        let named = false;
        const lines = parts[i].slice(0, end.index).split('\n');
        for (let j = 0; j < lines.length; j++) {
            const colon = lines[j].indexOf(':');
            const name = lines[j].slice(0, colon).trim().toLowerCase();
            const allowed = HEADERS_OF_A_PART[name];
            if (allowed && !allowed.test(lines[j].slice(colon + 1).trim())) {
                return false;
            }
            named = named || name === 'content-disposition';
        }
        if (!named) {
            return false;
        }
    }
    return true;
}

function form(r) {
    const type = r.headersIn['Content-Type'];
    const text = r.requestText || '';
    const read = /^multipart/i.test(type) ? multipartIsRead(type, text) : urlencodedIsRead(text);
    r.internalRedirect(read ? '@read_form' : '@bad_form');
}

// The description of the model that a TorchServe gives without asking the worker, or null.
async function described(r, server) {
    const reply = await r.subrequest(`/internal/workers/${server}`);
    if (reply.status !== 200) {
        return null;
    }
    try {
        const model = JSON.parse(reply.responseText)[0];
        return Array.isArray(model.workers) ? model : null;
    } catch (error) {
        return null;
    }
}

function isReady(worker) {
    return worker.status === 'READY';
}

async function health(r) {
    if (r.method !== 'GET' && r.method !== 'HEAD') {
        r.return(405);
        return;
    }
    let ready = false;
    for (let server = 1; server <= Number(r.variables.servers) && !ready; server++) {
        const model = await described(r, server);
        ready = model !== null && model.workers.length > 0 && model.workers.every(isReady);
    }
    if (ready) {
        r.headersOut['Cache-Control'] = 'no-store';  // of a problem: headers.conf
        r.headersOut['Content-Type'] = 'application/json';
        r.return(200, '{"status":"ready"}\n');
    } else {
        r.headersOut['Content-Type'] = 'application/problem+json';
        r.return(503, JSON.stringify(PROBLEM) + '\n');
    }
}

// What alerts and the dashboard ask for is there, as 0, before it happens: to Prometheus a series
// that begins with 1 has not risen.
const REPLIES = {
    torchserve: [200, 304, 400, 404, 406, 413, 415, 500, 501, 503, 507],
    proxy: [200, 400, 401, 404, 405, 412, 413, 414, 431, 500, 501, 502, 503, 504, 505],
    cache: [200, 304],
    rate: [429],
    key: [429],
    all: [429],
};

// In the text format of Prometheus: what the proxy answered, and how long its certificate is good.
function metrics(r) {
    const counts = {};
    Object.keys(REPLIES).forEach((by) => {
        REPLIES[by].forEach((status) => { counts[`${status}.${by}`] = 0; });
    });
    const folder = `${r.variables.run}/replies`;
    fs.readdirSync(folder).forEach((name) => {
        counts[name] = fs.statSync(`${folder}/${name}`).size;
    });
    const lines = [
        '# HELP dcgan_proxy_replies_total Replies, by status, and by who decided it: TorchServe, the cache, the proxy, or a limit (of requests a second, of requests in work of a key, or of all keys).',
        '# TYPE dcgan_proxy_replies_total counter',
    ];
    Object.keys(counts).sort().forEach((name) => {
        const parts = name.split('.');
        lines.push(`dcgan_proxy_replies_total{status="${parts[0]}",by="${parts[1]}"} ${counts[name]}`);
    });
    lines.push(
        '# HELP dcgan_proxy_certificate_end_seconds When the certificate in use ends, since 1970.',
        '# TYPE dcgan_proxy_certificate_end_seconds gauge',
        `dcgan_proxy_certificate_end_seconds ${fs.readFileSync(`${r.variables.run}/certificate_end`).toString().trim()}`
    );
    r.headersOut['Content-Type'] = 'text/plain; version=0.0.4';
    r.return(200, lines.join('\n') + '\n');
}

// In the text format of Prometheus: TorchServe tells these in JSON only.
async function workers(r) {
    const model = await described(r, r.variables.server || 1);
    if (model === null) {
        r.return(503, 'TorchServe does not describe the model\n');
        return;
    }
    const lines = [
        '# HELP dcgan_workers Worker processes that the model is set to have.',
        '# TYPE dcgan_workers gauge',
        `dcgan_workers ${model.minWorkers}`,
        '# HELP dcgan_workers_ready Worker processes that answer requests.',
        '# TYPE dcgan_workers_ready gauge',
        `dcgan_workers_ready ${model.workers.filter(isReady).length}`,
        '# HELP dcgan_queue_requests Requests that wait for a worker.',
        '# TYPE dcgan_queue_requests gauge',
        `dcgan_queue_requests ${model.jobQueueStatus.pendingRequests}`,
        '# HELP dcgan_queue_free_requests Requests that can still join the queue; then 503.',
        '# TYPE dcgan_queue_free_requests gauge',
        `dcgan_queue_free_requests ${model.jobQueueStatus.remainingCapacity}`,
        '# HELP dcgan_worker_memory_bytes Resident memory of a worker process; 0 in its first minute.',
        '# TYPE dcgan_worker_memory_bytes gauge',
    ];
    model.workers.forEach((worker) => {
        lines.push(`dcgan_worker_memory_bytes{worker="${worker.id}"} ${worker.memoryUsage}`);
    });
    r.headersOut['Content-Type'] = 'text/plain; version=0.0.4';
    r.return(200, lines.join('\n') + '\n');
}

export default {accept, contentEncoding, digest, escapedAgent, escapedUri, form, health, metrics, workers};
