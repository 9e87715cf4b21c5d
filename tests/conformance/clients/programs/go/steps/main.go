// go-redis with its defaults. What each step does and prints: tests/conformance/clients/foreign/steps.py.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

type got map[string]any

var (
	ctx     = context.Background()
	queue   = os.Getenv("PBUS_QUEUE")
	out     = json.NewEncoder(os.Stdout)
	answers = bufio.NewReader(os.Stdin)
	shared  = client(os.Getenv("PBUS_PORT"), "", "")
	puller  = client(os.Getenv("PBUS_PORT"), "", "")
	pulled  []string
)

func client(port, user, password string) *redis.Client {
	address := net.JoinHostPort(os.Getenv("PBUS_HOST"), port)
	return redis.NewClient(&redis.Options{Addr: address, Username: user, Password: password})
}

// as runs act with a client of its own.
func as[T any](user, password string, act func(*redis.Client) T) T {
	own := client(os.Getenv("PBUS_PORT"), user, password)
	defer own.Close()
	return act(own)
}

// must gives the value; an error ends the step.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// outcome is what a user sees of a push: its reply, or the error.
func outcome[T any](value T, err error) any {
	if err == nil {
		return value
	}
	return got{"class": class(err), "text": err.Error()}
}

// class names an error as one asks for it.
func class(err error) string {
	var fromBus redis.Error
	var network net.Error
	switch {
	case redis.IsAuthError(err):
		return "redis.Error, IsAuthError"
	case redis.IsPermissionError(err):
		return "redis.Error, IsPermissionError"
	case redis.IsExecAbortError(err):
		return "redis.Error, IsExecAbortError"
	case errors.As(err, &fromBus):
		return "redis.Error"
	case errors.Is(err, io.EOF):
		return "io.EOF"
	case errors.As(err, &network):
		return "net.Error"
	}
	return fmt.Sprintf("%T", err)
}

func ask(what string) {
	out.Encode(got{"ask": what})
	must(answers.ReadString('\n'))
}

func step(name string, act func() got) {
	defer func() {
		if problem := recover(); problem != nil {
			out.Encode(got{"step": name, "failed": fmt.Sprint(problem)})
		}
	}()
	out.Encode(got{"step": name, "got": act()})
}

func main() {
	step("connect", connect)
	step("push", push)
	step("push-typed", pushTyped)
	step("pipeline", pipeline)
	step("transaction", transaction)
	step("pool", pool)
	step("authenticate", authenticate)
	step("pull", pull)
	step("look", look)
	step("ack-elsewhere", ackElsewhere)
	step("nack", nack)
	step("blocking-pop", blockingPop)
	step("errors", refusals)
	step("unanswered", unanswered)
	step("reconnect", reconnect)
}

func connect() got {
	return got{
		"version": redis.Version(), "ping": must(shared.Ping(ctx).Result()),
		"info": must(shared.Do(ctx, "CLIENT", "INFO").Text()),
	}
}

func push() got {
	bodies := []any{}
	for number := range 97 {
		bodies = append(bodies, fmt.Sprintf("push %d", number))
	}
	bodies = append(bodies, "", "花椒 ñ", []byte{0, 0xff, '\r', '\n'})
	return got{"reply": must(shared.LPush(ctx, queue+".bulk", bodies...).Result())}
}

func pushTyped() got {
	typed := &redis.XAddArgs{Stream: queue + ".bulk", Values: []any{
		"body", "typed", "dedupe", queue + " order 4711", "delay", 1, "ttl", 60000, "key", "k", "traceparent", traceparent,
	}}
	ids := []string{must(shared.XAdd(ctx, typed).Result()), must(shared.XAdd(ctx, typed).Result())}
	plain := &redis.XAddArgs{Stream: queue + ".bulk", Values: []any{"body", "plain"}}
	return got{"ids": ids, "plain": must(shared.XAdd(ctx, plain).Result())}
}

func pipeline() got {
	many := shared.Pipeline()
	for number := range 100 {
		many.LPush(ctx, queue+".bulk", fmt.Sprintf("pipe %d", number))
	}
	many.LLen(ctx, queue+".bulk")
	replies := []any{}
	for _, command := range must(many.Exec(ctx)) {
		replies = append(replies, must(command.(*redis.IntCmd).Result()))
	}
	mixed, refused := shared.Pipeline(), []any{}
	mixed.LPush(ctx, queue+".bulk", "good 0")
	mixed.LPush(ctx, "nope", "bad")
	mixed.LPush(ctx, queue+".bulk", "good 1")
	commands, _ := mixed.Exec(ctx) // the first error; each command has its own
	for _, command := range commands {
		refused = append(refused, outcome(command.(*redis.IntCmd).Result()))
	}
	return got{"replies": replies, "refused": refused}
}

func transaction() got {
	whole := shared.TxPipeline()
	whole.LPush(ctx, queue+".bulk", "both 0")
	whole.LPush(ctx, queue+".bulk", "both 1")
	whole.LLen(ctx, queue+".bulk")
	replies := []any{}
	for _, command := range must(whole.Exec(ctx)) {
		replies = append(replies, must(command.(*redis.IntCmd).Result()))
	}
	never := func(other string) any {
		none := shared.TxPipeline()
		none.LPush(ctx, queue+".bulk", "never")
		none.LPush(ctx, other, "never")
		return outcome(none.Exec(ctx))
	}
	return got{"replies": replies, "discarded": never("nope"), "refused": never("full")}
}

func pool() got {
	var workers sync.WaitGroup
	var mixedUp, pushed atomic.Int64
	for worker := range 8 {
		workers.Go(func() {
			for turn := range 25 {
				text := fmt.Sprintf("pool %d %d", worker, turn)
				if echoed, _ := shared.Echo(ctx, text).Result(); echoed != text {
					mixedUp.Add(1)
				}
				if shared.LPush(ctx, queue+".bulk", text).Err() == nil {
					pushed.Add(1)
				}
			}
		})
	}
	workers.Wait()
	return got{"mixed_up": mixedUp.Load(), "pushed": pushed.Load()}
}

func authenticate() got {
	safe := queue + ".safe"
	return got{
		"user": as(safe, "pw", func(own *redis.Client) int64 { return must(own.LPush(ctx, safe, "safe 0").Result()) }),
		"password": as("", safe+":pw", func(own *redis.Client) int64 {
			return must(own.LPush(ctx, safe, "safe 1").Result())
		}),
		"topic": as(safe+"/t", "tpw", func(own *redis.Client) string { return must(own.RPop(ctx, safe+"/t").Result()) }),
	}
}

// read is one XREADGROUP; blockMs -1: without BLOCK.
func read(from string, count int64, blockMs time.Duration) []redis.XMessage {
	streams, err := puller.XReadGroup(ctx, &redis.XReadGroupArgs{
		Group: "t", Consumer: "me", Streams: []string{queue, from}, Count: count, Block: blockMs * time.Millisecond,
	}).Result()
	if err == redis.Nil {
		return nil
	}
	return must(streams, err)[0].Messages
}

func entries(messages []redis.XMessage) []got {
	all := []got{}
	for _, message := range messages {
		entry := got{"id": message.ID}
		for name, value := range message.Values {
			entry[name] = value
		}
		pulled = append(pulled, message.ID)
		all = append(all, entry)
	}
	return all
}

func pull() got {
	must(shared.LPush(ctx, queue, "pull 0", "pull 1", "pull 2", "pull 3").Result())
	last := &redis.XAddArgs{Stream: queue, Values: []any{"body", "pull 4", "traceparent", traceparent}}
	must(shared.XAdd(ctx, last).Result())
	first := entries(read(">", 3, 2000))
	rest := entries(read(">", 0, -1))
	nothing, waited := len(read(">", 0, -1)), len(read(">", 0, 50))
	return got{"first": first, "rest": rest, "nothing": nothing, "waited": waited, "open": len(read("0", 0, -1))}
}

func look() got {
	ids, groups, consumers, bodies := []string{}, []string{}, []string{}, []any{}
	listed := must(shared.XPendingExt(ctx, &redis.XPendingExtArgs{
		Stream: queue, Group: "t", Start: "-", End: "+", Count: 10,
	}).Result())
	for _, claim := range listed {
		ids = append(ids, claim.ID)
	}
	for _, group := range must(shared.XInfoGroups(ctx, queue).Result()) {
		groups = append(groups, group.Name)
	}
	for _, consumer := range must(shared.XInfoConsumers(ctx, queue, "t").Result()) {
		consumers = append(consumers, consumer.Name)
	}
	for _, job := range must(shared.XRangeN(ctx, queue, "-", "+", 100).Result()) {
		bodies = append(bodies, job.Values["body"])
	}
	claimed, _, err := shared.XAutoClaim(ctx, &redis.XAutoClaimArgs{
		Stream: queue, Group: "t", Consumer: "me", Start: "0-0",
	}).Result()
	must(claimed, err)
	never := &redis.XAddArgs{Stream: queue, Values: []any{"body", "never", "delay", 60000}}
	seen := got{
		"pending": must(shared.XPending(ctx, queue, "t").Result()).Count, "ids": ids, "consumer": listed[0].Consumer,
		"groups": groups, "consumers": consumers, "bodies": bodies, "claimed": len(claimed),
		"last": must(shared.XInfoStream(ctx, queue).Result()).LastEntry.ID,
	}
	seen["cancelled"] = must(shared.XDel(ctx, queue, must(shared.XAdd(ctx, never).Result())).Result())
	return seen
}

func ackElsewhere() got {
	acked := must(shared.XAck(ctx, queue, "t", pulled...).Result())
	again := must(shared.XAck(ctx, queue, "t", pulled...).Result())
	return got{"acked": acked, "again": again, "open": len(read("0", 0, -1))}
}

func nack() got {
	must(shared.LPush(ctx, queue, "nack").Result())
	id := read(">", 0, 5000)[0].ID
	retried := must(shared.Do(ctx, "PBUS.NACK", queue, "t", id, "DELAY", 0, "REASON", "not today").Int())
	attempt := read(">", 0, 5000)[0].Values["attempt"]
	dead := must(shared.Do(ctx, "PBUS.NACK", queue, "t", id, "DEAD").Int())
	counted := must(shared.HGetAll(ctx, queue+"/t").Result())["dead"]
	return got{"retried": retried, "attempt": attempt, "dead": dead, "counted": counted}
}

func blockingPop() got {
	timer := time.AfterFunc(200*time.Millisecond, func() { shared.LPush(ctx, queue, "wake") })
	defer timer.Stop()
	woken := must(shared.BRPop(ctx, 5*time.Second, queue+"/t").Result())
	_, err := shared.BRPop(ctx, time.Second, queue+"/t").Result()
	return got{"got": woken, "nothing": err == redis.Nil}
}

func refusals() got {
	safe := queue + ".safe"
	taking := func(from *redis.Client, group, stream string) any {
		return outcome(from.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: group, Consumer: "me", Streams: []string{stream, ">"}, Block: -1,
		}).Result())
	}
	delayed := &redis.XAddArgs{Stream: queue, Values: []any{"body", "x", "delay", -1}}
	seen := got{
		"NOAUTH":    outcome(shared.LPush(ctx, safe, "x").Result()),
		"WRONGPASS": as(safe, "no", func(own *redis.Client) any { return outcome(own.LPush(ctx, safe, "x").Result()) }),
		"NOPERM":    as(safe, "pw", func(own *redis.Client) any { return taking(own, "t", safe) }),
		"NOQUEUE":   outcome(shared.LPush(ctx, "nope", "x").Result()),
		"NOTOPIC":   taking(shared, "nope", queue),
		"QUEUEFULL": outcome(shared.LPush(ctx, "full", "x").Result()),
		"TOOBIG":    outcome(shared.LPush(ctx, queue, strings.Repeat("x", 1048577)).Result()),
		"BADVALUE":  outcome(shared.XAdd(ctx, delayed).Result()),
		"BUSYGROUP": outcome(shared.XGroupCreate(ctx, queue, "t", "$").Result()),
		"ERR":       outcome(shared.Do(ctx, "NOSUCH").Result()),
	}
	ask("freeze")
	seen["MAYBESTORED"] = outcome(shared.LPush(ctx, "away", "x").Result())
	seen["UNAVAILABLE"] = outcome(shared.LPush(ctx, "away", "x").Result())
	ask("thaw")
	seen["after"] = must(shared.Ping(ctx).Result())
	return seen
}

func unanswered() got {
	cut := client(os.Getenv("PBUS_CUT_PORT"), "", "")
	defer cut.Close()
	keyed := &redis.XAddArgs{Stream: queue + ".cut", Values: []any{
		"body", "CUT:" + queue + ":dedupe", "dedupe", queue + " cut",
	}}
	return got{
		"plain":  outcome(cut.LPush(ctx, queue+".cut", "CUT:"+queue+":plain").Result()),
		"dedupe": outcome(cut.XAdd(ctx, keyed).Result()),
	}
}

// untilStored pushes until it is stored; what each try came to.
func untilStored() []any {
	tries := []any{}
	for range 300 {
		reply, err := shared.LPush(ctx, queue+".cut", "back").Result()
		tries = append(tries, outcome(reply, err))
		if err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return tries
}

func reconnect() got {
	must(shared.LPush(ctx, queue+".cut", "before").Result())
	ask("close")
	closed := untilStored()
	ask("restart")
	return got{"closed": closed, "restarted": untilStored()}
}
