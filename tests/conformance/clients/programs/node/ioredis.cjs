// ioredis; PBUS_PACKAGE says which major version. What each step does is said in foreign/steps.py.
'use strict';
const Redis = require(process.env.PBUS_PACKAGE);
const { version } = require(`${process.env.PBUS_PACKAGE}/package.json`);
const { host, port, cutPort, Q, TRACEPARENT, ask, outcome, after, shown, sleep, range, bodies, run } = require('./steps.cjs');

function client(options = {}) {
  const redis = new Redis({ host, port, ...options });
  redis.on('error', () => {}); // told by the commands
  return redis;
}

const r = client();
const pulled = [];

function entries(reply) {
  return (reply || []).flatMap(([, messages]) => messages.map(([id, fields]) => {
    const entry = { id };
    for (let place = 0; place < fields.length; place += 2) entry[fields[place]] = fields[place + 1];
    return entry;
  }));
}

const read = async (start, ...options) =>
  entries(await r.xreadgroup('GROUP', 't', 'me', ...options, 'STREAMS', Q, start));

run({
  async connect() {
    return { version, ping: await r.ping(), info: await r.client('INFO') };
  },

  async push() {
    return { reply: await r.lpush(`${Q}.bulk`, ...bodies) };
  },

  async 'push-typed'() {
    const typed = () => r.xadd(
      `${Q}.bulk`, '*', 'body', 'typed', 'dedupe', `${Q} order 4711`, 'delay', 1, 'ttl', 60000, 'key', 'k',
      'traceparent', TRACEPARENT,
    );
    return { ids: [await typed(), await typed()], plain: await r.xadd(`${Q}.bulk`, '*', 'body', 'plain') };
  },

  async pipeline() {
    const pipe = r.pipeline();
    for (const index of range(100)) pipe.lpush(`${Q}.bulk`, `pipe ${index}`);
    const replies = (await pipe.llen(`${Q}.bulk`).exec()).map(([, reply]) => reply);
    const mixed = r.pipeline().lpush(`${Q}.bulk`, 'good 0').lpush('nope', 'bad').lpush(`${Q}.bulk`, 'good 1');
    return { replies, refused: (await mixed.exec()).map(([error, reply]) => (error ? shown(error) : reply)) };
  },

  async transaction() {
    const both = r.multi().lpush(`${Q}.bulk`, 'both 0').lpush(`${Q}.bulk`, 'both 1').llen(`${Q}.bulk`);
    const replies = (await both.exec()).map(([, reply]) => reply);
    const never = (queue) => outcome(() => r.multi().lpush(`${Q}.bulk`, 'never').lpush(queue, 'never').exec());
    return { replies, discarded: await never('nope'), refused: await never('full') };
  },

  async pool() {
    let mixedUp = 0;
    let pushed = 0;
    await Promise.all(range(8).map(async (worker) => {
      for (const turn of range(25)) {
        const own = `pool ${worker} ${turn}`;
        if ((await r.echo(own)) !== own) mixedUp += 1;
        await r.lpush(`${Q}.bulk`, own);
        pushed += 1;
      }
    }));
    return { mixed_up: mixedUp, pushed, note: 'one connection' };
  },

  async authenticate() {
    return {
      user: await client({ username: `${Q}.safe`, password: 'pw' }).lpush(`${Q}.safe`, 'safe 0'),
      password: await client({ password: `${Q}.safe:pw` }).lpush(`${Q}.safe`, 'safe 1'),
      topic: await client({ username: `${Q}.safe/t`, password: 'tpw' }).rpop(`${Q}.safe/t`),
    };
  },

  async pull() {
    await r.lpush(Q, ...range(4).map((index) => `pull ${index}`));
    await r.xadd(Q, '*', 'body', 'pull 4', 'traceparent', TRACEPARENT);
    const first = await read('>', 'COUNT', 3, 'BLOCK', 2000);
    const rest = await read('>');
    pulled.push(...first, ...rest);
    const counts = [await read('>'), await read('>', 'BLOCK', 50), await read('0')].map((some) => some.length);
    return { first, rest, nothing: counts[0], waited: counts[1], open: counts[2] };
  },

  async look() {
    const pairs = (reply) => Object.fromEntries(range(reply.length / 2).map((n) => [reply[2 * n], reply[2 * n + 1]]));
    const listed = await r.xpending(Q, 't', '-', '+', 10);
    const names = async (...words) => (await r.xinfo(...words)).map((one) => pairs(one).name);
    return {
      pending: (await r.xpending(Q, 't'))[0], ids: listed.map(([id]) => id), consumer: listed[0][1],
      groups: await names('GROUPS', Q), consumers: await names('CONSUMERS', Q, 't'),
      last: pairs(await r.xinfo('STREAM', Q))['last-entry'][0],
      bodies: (await r.xrange(Q, '-', '+', 'COUNT', 100)).map(([, fields]) => pairs(fields).body),
      claimed: (await r.xautoclaim(Q, 't', 'me', 0, '0-0'))[1].length,
      cancelled: await r.xdel(Q, await r.xadd(Q, '*', 'body', 'never', 'delay', 60000)),
    };
  },

  async 'ack-elsewhere'() {
    const other = client();
    const ack = () => other.xack(Q, 't', ...pulled.map((entry) => entry.id));
    return { acked: await ack(), again: await ack(), open: (await read('0')).length };
  },

  async nack() {
    await r.lpush(Q, 'nack');
    const [entry] = await read('>', 'BLOCK', 2000);
    const retried = await r.call('PBUS.NACK', Q, 't', entry.id, 'DELAY', 0, 'REASON', 'not today');
    const [again] = await read('>', 'BLOCK', 5000);
    const dead = await r.call('PBUS.NACK', Q, 't', again.id, 'DEAD');
    return { retried, attempt: again.attempt, dead, counted: (await r.hgetall(`${Q}/t`)).dead };
  },

  async 'blocking-pop'() {
    const other = client();
    const [got] = await Promise.all([r.brpop(`${Q}/t`, 5), sleep(100).then(() => other.lpush(Q, 'wake'))]);
    return { got, nothing: (await r.brpop(`${Q}/t`, 0.05)) === null };
  },

  async errors() {
    const nobody = client({ username: `${Q}.safe`, password: 'no' });
    const owner = client({ username: `${Q}.safe`, password: 'pw' });
    const found = {
      NOAUTH: await outcome(() => r.lpush(`${Q}.safe`, 'x')),
      WRONGPASS: await outcome(() => nobody.lpush(`${Q}.safe`, 'x')),
      NOPERM: await outcome(() => owner.xreadgroup('GROUP', 't', 'me', 'STREAMS', `${Q}.safe`, '>')),
      NOQUEUE: await outcome(() => r.lpush('nope', 'x')),
      NOTOPIC: await outcome(() => r.xreadgroup('GROUP', 'nope', 'me', 'STREAMS', Q, '>')),
      QUEUEFULL: await outcome(() => r.lpush('full', 'x')),
      TOOBIG: await outcome(() => r.lpush(Q, 'x'.repeat(1048577))),
      BADVALUE: await outcome(() => r.xadd(Q, '*', 'body', 'x', 'delay', -1)),
      BUSYGROUP: await outcome(() => r.xgroup('CREATE', Q, 't', '$')),
      ERR: await outcome(() => r.call('NOSUCH')),
    };
    nobody.disconnect();
    await ask('freeze');
    found.MAYBESTORED = await outcome(() => r.lpush('away', 'x'));
    found.UNAVAILABLE = await outcome(() => r.lpush('away', 'x'));
    await ask('thaw');
    return { ...found, after: await r.ping() };
  },

  async unanswered() {
    const cut = client({ port: cutPort });
    return {
      plain: await outcome(() => cut.lpush(`${Q}.cut`, `CUT:${Q}:plain`)),
      dedupe: await outcome(() => cut.xadd(`${Q}.cut`, '*', 'body', `CUT:${Q}:dedupe`, 'dedupe', `${Q} cut`)),
    };
  },

  async reconnect() {
    await r.lpush(`${Q}.cut`, 'before');
    const push = () => r.lpush(`${Q}.cut`, 'back');
    return { closed: await after('close', push), restarted: await after('restart', push) };
  },
});
