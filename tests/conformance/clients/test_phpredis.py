"""phpredis with its defaults: what PHP programs see."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from tests.support.bus import Bus
from tests.support.programs import requires_php_redis


def php(bus: Bus, code: str) -> Any:
    """What *code* puts into ``$out``, with ``$r`` connected; its exceptions as ``{"exception": text}``."""
    script = f"""
        $r = new Redis(); $r->connect('127.0.0.1', {bus.port}); $out = null;
        try {{ {code} }} catch (RedisException $e) {{ $out = ['exception' => $e->getMessage()]; }}
        echo json_encode($out);
    """
    result = subprocess.run(
        [requires_php_redis(), "-r", script], capture_output=True, text=True, timeout=30, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def test_pushes_are_true_for_php(bus: Bus) -> None:
    first, second, third = php(bus, "$out = [$r->lPush('php', 'a'), $r->rPush('php', 'b', 'c'), $r->lLen('php')];")

    assert (first, second, third) == (1, 3, 3)
    assert php(bus, "$out = [$r->rPop('php/t'), $r->lPop('php/t'), $r->rPop('php/t'), $r->rPop('php/t')];") == [
        "a", "b", "c", False
    ]


def test_pipeline(bus: Bus) -> None:
    replies = php(bus, """
        $r->multi(Redis::PIPELINE);
        for ($i = 0; $i < 200; $i++) $r->lPush('phppipe', "job $i");
        $out = $r->exec();
    """)

    assert len(replies) == 200
    assert all(reply >= 1 for reply in replies)
    assert php(bus, "$out = count($r->rawCommand('RPOP', 'phppipe/t', '500'));") == 200


def test_auth_by_array_and_by_string(bus: Bus) -> None:
    assert php(bus, "$out = [$r->auth(['safe', 'pw']), $r->lPush('safe', 'x') > 0];") == [True, True]
    assert php(bus, "$out = [$r->auth('safe:pw'), $r->lPush('safe', 'x') > 0];") == [True, True]
    refusal = php(bus, "$out = $r->auth('safe:no');")["exception"]
    assert refusal.startswith("WRONGPASS invalid username-password pair or user is disabled: nothing is stored")


def test_refusals_throw_with_their_text(bus: Bus) -> None:
    unknown = php(bus, "$out = $r->lPush('nope', 'x');")["exception"]
    too_big = php(bus, "$out = $r->lPush('php', str_repeat('x', 1048577));")["exception"]

    assert unknown.startswith("NOQUEUE there is no queue 'nope': not stored")
    assert too_big.startswith("TOOBIG php takes at most")
    assert "NOAUTH" in json.dumps(php(bus, "$out = [$r->lPush('safe', 'x'), $r->getLastError()];"))


def test_blocking_pop_and_stream_push(bus: Bus) -> None:
    job_id, popped = php(bus, "$out = [$r->xAdd('php', '*', ['body' => 'x']), $r->brPop(['php/t'], 1)];")

    assert job_id.partition("-")[0].isdigit()
    assert popped == ["php/t", "x"]


def test_the_old_contract_by_raw_command(bus: Bus) -> None:
    pushed = php(bus, "$r->auth('old:pw'); $out = json_decode($r->rawCommand('LPUSH', 'old/any', 'body'), true);")

    assert len(pushed["jobs"]) == 1
    assert pushed["error"] == ""


OLD_SDK = """
    function producer($port, $password = 'pw') {                     // the way of the old client class
        $redis = new Redis();
        $redis->connect('127.0.0.1', $port, 3, null, 200);
        $redis->auth('old:' . $password);
        return $redis;
    }
    function add($redis, $content) {
        return json_decode($redis->rawCommand('lpush', 'old/default', $content), true);
    }
    function job($port) {                                            // the way of the old worker class: anew for each
        $redis = new Redis();
        $redis->connect('127.0.0.1', $port, 3, null, 200);
        $redis->auth('old/t:pw');
        return json_decode($redis->rpop('old/t'), true);
    }
"""


def test_unchanged_producer_and_consumer_of_the_old_contract(bus: Bus) -> None:
    out = php(bus, OLD_SDK + f"""
        while (job({bus.port}));
        $producer = producer({bus.port});
        $texts = ['plain', '{{"uid":1,"text":"\u82b1\u6912 \\"x\\" </b>"}}', ''];
        $ids = array_map(fn($text) => add($producer, $text), $texts);
        $jobs = array_map(fn($text) => job({bus.port}), $texts);
        $out = ['ids' => $ids, 'jobs' => $jobs, 'texts' => $texts, 'end' => job({bus.port})];
    """)

    assert [answer["error"] for answer in out["ids"]] == ["", "", ""]
    popped = [answer["jobs"][0] for answer in out["jobs"]]
    assert [job["content"] for job in popped] == out["texts"]
    assert [job["id"] for job in popped] == [answer["jobs"][0] for answer in out["ids"]]
    assert [job["inTraceId"] for job in popped] == [answer["inTraceId"] for answer in out["ids"]]
    assert out["end"] is None


def test_refusals_of_the_old_contract_are_json_for_php(bus: Bus) -> None:
    nobody = php(bus, "$out = json_decode($r->rawCommand('lpush', 'old/default', 'x'), true);")
    too_big = php(bus, OLD_SDK + f"$out = add(producer({bus.port}), str_repeat('x', 1048577));")
    wrong = php(bus, OLD_SDK + f"$out = producer({bus.port}, 'no');")

    assert nobody["jobs"] is None
    assert nobody["error"].startswith("NOAUTH ")
    assert too_big["jobs"] is None
    assert too_big["error"].startswith("TOOBIG old/default takes at most 1048576 bytes a body")
    assert wrong["exception"].startswith("WRONGPASS ")
