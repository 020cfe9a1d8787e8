/*
 * A database process in little: drives WiredTiger as mongod does, by commands on standard input.
 * Each command is one line and has one answer line, "ok ..." or "err CODE TEXT"; `metadata` answers more lines before it.
 * The same commands as host.py. WiredTiger's own messages go to standard error, all of them.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wiredtiger.h>

#define WORDS 32
#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        int code_ = (call);                                                                                            \
        if (code_ != 0)                                                                                                \
            return code_;                                                                                              \
    } while (0)

static WT_CONNECTION *connection;
static WT_SESSION *session;
static char home[4096];
static FILE *answers;

/* Incompressible and known to the test: splitmix64 from the seed and the key. */
static void value_of(uint64_t seed, uint64_t key, uint64_t value[WORDS]) {
    uint64_t state = seed * 0x9E3779B97F4A7C15u + key * 0xD1B54A32D192ED03u;
    for (int i = 0; i < WORDS; i++) {
        uint64_t z = (state += 0x9E3779B97F4A7C15u);
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        value[i] = z ^ (z >> 31);
    }
}

static int open_session(WT_SESSION **opened) {
    return connection->open_session(connection, NULL, NULL, opened);
}

/* mongod makes the directory of a database before its first table. */
static int create(WT_SESSION *s, const char *uri, const char *config) {
    char path[8192];
    const char *name = strchr(uri, ':');
    const char *slash = name == NULL ? NULL : strchr(name, '/');
    if (slash != NULL) {
        snprintf(path, sizeof(path), "%s/%.*s", home, (int)(slash - name - 1), name + 1);
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return errno;
    }
    return s->create(s, uri, config);
}

static int put(WT_SESSION *s, const char *uri, uint64_t first, uint64_t count, uint64_t seed) {
    WT_CURSOR *cursor;
    CHECK(s->open_cursor(s, uri, NULL, NULL, &cursor));
    for (uint64_t key = first; key < first + count; key++) {
        uint64_t value[WORDS];
        WT_ITEM item = {0};
        value_of(seed, key, value);
        item.data = value;
        item.size = sizeof(value);
        cursor->set_key(cursor, key);
        cursor->set_value(cursor, &item);
        CHECK(cursor->insert(cursor));
    }
    return cursor->close(cursor);
}

/* 0 if every row is there as written, 1000 if one differs, else WiredTiger's error. */
static int check(WT_SESSION *s, const char *uri, uint64_t first, uint64_t count, uint64_t seed) {
    WT_CURSOR *cursor;
    int result = 0;
    CHECK(s->open_cursor(s, uri, NULL, NULL, &cursor));
    for (uint64_t key = first; key < first + count && result == 0; key++) {
        uint64_t value[WORDS];
        WT_ITEM item = {0};
        value_of(seed, key, value);
        cursor->set_key(cursor, key);
        result = cursor->search(cursor);
        if (result == 0)
            result = cursor->get_value(cursor, &item);
        if (result == 0 && (item.size != sizeof(value) || memcmp(item.data, value, sizeof(value)) != 0))
            result = 1000;
    }
    int closed = cursor->close(cursor);
    return result != 0 ? result : closed;
}

/* Answers how many rows are there from `first` on: 1000 if one differs, or if one comes after one that is missing. */
static int prefix(WT_SESSION *s, const char *uri, uint64_t first, uint64_t count, uint64_t seed) {
    WT_CURSOR *cursor;
    uint64_t found = 0;
    int result = 0;
    CHECK(s->open_cursor(s, uri, NULL, NULL, &cursor));
    for (uint64_t key = first; key < first + count && result == 0; key++) {
        uint64_t value[WORDS];
        WT_ITEM item = {0};
        value_of(seed, key, value);
        cursor->set_key(cursor, key);
        result = cursor->search(cursor);
        if (result == WT_NOTFOUND) {
            result = 0;
            continue;
        }
        if (result == 0)
            result = cursor->get_value(cursor, &item);
        if (result == 0 && (item.size != sizeof(value) || memcmp(item.data, value, sizeof(value)) != 0))
            result = 1000;
        if (result == 0 && key != first + found++)
            result = 1000;
    }
    int closed = cursor->close(cursor);
    CHECK(result != 0 ? result : closed);
    fprintf(answers, "m %" PRIu64 "\n", found);
    return 0;
}

/* Writes every row anew while a reader holds on to what was there, which WiredTiger keeps in a file of its own. */
static int history(const char *uri, uint64_t count, uint64_t old, uint64_t new) {
    WT_SESSION *reader;
    CHECK(open_session(&reader));
    CHECK(reader->begin_transaction(reader, "isolation=snapshot"));
    CHECK(check(reader, uri, 1, 1, old));
    CHECK(put(session, uri, 1, count, new));
    CHECK(session->checkpoint(session, NULL));
    CHECK(check(session, uri, 1, count, new));
    return check(reader, uri, 1, count, old);
}

static int metadata(WT_SESSION *s) {
    WT_CURSOR *cursor;
    const char *key, *value;
    CHECK(s->open_cursor(s, "metadata:", NULL, NULL, &cursor));
    while (cursor->next(cursor) == 0) {
        CHECK(cursor->get_key(cursor, &key));
        CHECK(cursor->get_value(cursor, &value));
        fprintf(answers, "m %s %s\n", key, value);
    }
    return cursor->close(cursor);
}

struct worker {
    pthread_t thread;
    int number, tables, databases, result;
    uint64_t rows;
};

static int work(struct worker *w) {
    WT_SESSION *s;
    CHECK(open_session(&s));
    for (int table = 0; table < w->tables; table++) {
        char uri[128];
        snprintf(uri, sizeof(uri), "table:d%d/t-%d-%d", (w->number + table) % w->databases, w->number, table);
        CHECK(create(s, uri, "key_format=Q,value_format=u"));
        CHECK(put(s, uri, 1, w->rows, (uint64_t)(w->number * 1000 + table)));
        CHECK(check(s, uri, 1, w->rows, (uint64_t)(w->number * 1000 + table)));
        if (table % 3 == 2) {
            int code = s->checkpoint(s, NULL);
            if (code != 0 && code != EBUSY)
                return code;
        }
    }
    return s->close(s, NULL);
}

static void *worker_main(void *argument) {
    struct worker *w = argument;
    w->result = work(w);
    return NULL;
}

static int threads(int number, int tables, int databases, uint64_t rows) {
    struct worker *workers = calloc((size_t)number, sizeof(struct worker));
    int result = 0;
    for (int i = 0; i < number; i++) {
        workers[i] = (struct worker){.number = i, .tables = tables, .databases = databases, .rows = rows};
        if (pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]) != 0)
            abort();
    }
    for (int i = 0; i < number; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].result != 0)
            result = workers[i].result;
    }
    free(workers);
    return result;
}

/* Threads that used the encryptor and outlive its library. */
static pthread_barrier_t used, closed;

static void *outliving_main(void *argument) {
    struct worker *w = argument;
    w->result = work(w);
    pthread_barrier_wait(&used);
    pthread_barrier_wait(&closed);
    return NULL;
}

static int outlive(int number) {
    struct worker *workers = calloc((size_t)number, sizeof(struct worker));
    int result;
    pthread_barrier_init(&used, NULL, (unsigned)number + 1);
    pthread_barrier_init(&closed, NULL, (unsigned)number + 1);
    for (int i = 0; i < number; i++) {
        workers[i] = (struct worker){.number = i, .tables = 3, .databases = 2, .rows = 200};
        if (pthread_create(&workers[i].thread, NULL, outliving_main, &workers[i]) != 0)
            abort();
    }
    pthread_barrier_wait(&used);
    result = connection->close(connection, NULL);
    connection = NULL;
    session = NULL;
    pthread_barrier_wait(&closed);
    for (int i = 0; i < number; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].result != 0)
            result = workers[i].result;
    }
    free(workers);
    return result;
}

/* A child that ends through its exit handlers, as a helper process of the database would. */
static int fork_child(void) {
    int status;
    pid_t child = fork();
    if (child < 0)
        return errno;
    if (child == 0) {
        alarm(20);
        exit(7);
    }
    if (waitpid(child, &status, 0) != child)
        return errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 7 ? 0 : 1001;
}

/* A child that goes on writing with its parent's encryptors: the first log record it seals must fail. */
static int fork_writer(const char *uri) {
    int status;
    pid_t child = fork();
    if (child < 0)
        return errno;
    if (child == 0) {
        alarm(20);
        WT_SESSION *s;
        if (open_session(&s) != 0)
            _exit(8);
        _exit(put(s, uri, 900000, 10, 9) == 0 ? 9 : 0);
    }
    if (waitpid(child, &status, 0) != child)
        return errno;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static int open_database(const char *path, const char *config) {
    snprintf(home, sizeof(home), "%s", path);
    CHECK(wiredtiger_open(path, NULL, config, &connection));
    return open_session(&session);
}

static int close_database(void) {
    int result = connection == NULL ? 0 : connection->close(connection, NULL);
    connection = NULL;
    session = NULL;
    return result;
}

/* A second database beside the first, as mongod's for spilled queries. */
static int second(const char *path, const char *config, const char *uri) {
    WT_CONNECTION *other;
    WT_SESSION *s;
    CHECK(wiredtiger_open(path, NULL, config, &other));
    CHECK(other->open_session(other, NULL, NULL, &s));
    CHECK(s->create(s, uri, "key_format=Q,value_format=u"));
    CHECK(put(s, uri, 1, 500, 77));
    CHECK(s->checkpoint(s, NULL));
    CHECK(check(s, uri, 1, 500, 77));
    CHECK(metadata(s));
    return other->close(other, NULL);
}

static int run(char *line) {
    char *words[6] = {0};
    int limit = strncmp(line, "open ", 5) == 0 || strncmp(line, "create ", 7) == 0 || strncmp(line, "alter ", 6) == 0 ? 3 : 6;
    char *rest = line;
    for (int i = 0; i < limit && rest != NULL; i++)
        words[i] = i == limit - 1 ? rest : strsep(&rest, " ");
    const char *command = words[0], *first = words[1], *other = words[2];
#define IS(name) (strcmp(command, name) == 0)
#define NUMBER(word) strtoull((word) == NULL ? "0" : (word), NULL, 10)
    if (IS("open"))
        return open_database(first, other);
    if (IS("close"))
        return close_database();
    if (IS("create"))
        return create(session, first, other);
    if (IS("put"))
        return put(session, first, NUMBER(words[2]), NUMBER(words[3]), NUMBER(words[4]));
    if (IS("check"))
        return check(session, first, NUMBER(words[2]), NUMBER(words[3]), NUMBER(words[4]));
    if (IS("prefix"))
        return prefix(session, first, NUMBER(words[2]), NUMBER(words[3]), NUMBER(words[4]));
    if (IS("say"))
        return fprintf(stderr, "%s\n", first) < 0 ? EIO : 0;
    if (IS("checkpoint"))
        return session->checkpoint(session, NULL);
    if (IS("flush"))
        return session->log_flush(session, "sync=on");
    if (IS("drop"))
        return session->drop(session, first, NULL);
    if (IS("verify"))
        return session->verify(session, first, NULL);
    if (IS("salvage"))
        return session->salvage(session, first, NULL);
    if (IS("alter"))
        return session->alter(session, first, other);
    if (IS("history"))
        return history(first, NUMBER(words[2]), NUMBER(words[3]), NUMBER(words[4]));
    if (IS("metadata"))
        return metadata(session);
    if (IS("threads"))
        return threads((int)NUMBER(words[1]), (int)NUMBER(words[2]), (int)NUMBER(words[3]), NUMBER(words[4]));
    if (IS("outlive"))
        return outlive((int)NUMBER(words[1]));
    if (IS("fork"))
        return fork_child();
    if (IS("fork-writer"))
        return fork_writer(first);
    if (IS("second"))
        return second(first, other, words[3]);
    if (IS("die")) {
        raise(SIGKILL);
        return 0;
    }
    return EINVAL;
}

/* As a database process: opens its data path with what the environment adds, or ends with a message. */
static int serve(const char *path, const char *config) {
    int code = open_database(path, config);
    if (code != 0) {
        fprintf(stderr, "the database does not start: %s\n", wiredtiger_strerror(code));
        return 100;
    }
    code = create(session, "table:alpha/t", "key_format=Q,value_format=u");
    return close_database() == 0 && code == 0 ? 0 : 1;
}

int main(int argc, char **argv) {
    if (argc == 3)
        return serve(argv[1], argv[2]);
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    answers = fdopen(dup(STDOUT_FILENO), "w");
    if (answers == NULL || dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return 2;
    while ((length = getline(&line, &size, stdin)) > 0) {
        if (line[length - 1] == '\n')
            line[length - 1] = '\0';
        int code = run(line);
        if (code == 0)
            fprintf(answers, "ok\n");
        else
            fprintf(answers, "err %d %s\n", code, wiredtiger_strerror(code));
        fflush(answers);
    }
    free(line);
    return close_database() == 0 ? 0 : 1;
}
