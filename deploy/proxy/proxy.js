// What nginx cannot say in its own words: a digest, text for the log, the state of the workers.
import crypto from 'crypto';

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
    r.headersOut['Cache-Control'] = 'no-store';
    if (ready) {
        r.headersOut['Content-Type'] = 'application/json';
        r.return(200, '{"status":"ready"}\n');
    } else {
        r.headersOut['Content-Type'] = 'application/problem+json';
        r.return(503, JSON.stringify(PROBLEM) + '\n');
    }
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

export default {digest, escapedAgent, escapedUri, health, workers};
