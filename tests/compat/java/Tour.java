import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutionException;

/**
 * What the tours share: each step prints one line with its name and what came out, an exception by its class. Two
 * brokers that behave alike make a tour print the same lines, so nothing is printed that differs by chance or layout.
 */
abstract class Tour {
    static final Duration PATIENCE = Duration.ofSeconds(20);

    interface Step {
        Object run() throws Exception;
    }

    interface Condition {
        boolean holds() throws Exception;
    }

    final String servers;
    final String prefix;

    /** {@code servers} is where to bootstrap; every topic and group that a tour makes begins with {@code prefix}. */
    Tour(String servers, String prefix) {
        this.servers = servers;
        this.prefix = prefix;
    }

    static void step(String name, Step step) {
        System.out.println(name + ": " + outcome(name, step));
    }

    static String outcome(String name, Step step) {
        try {
            return String.valueOf(step.run());
        } catch (Throwable thrown) {
            Throwable cause = thrown;
            while ((cause instanceof ExecutionException || cause instanceof CompletionException)
                    && cause.getCause() != null) {
                cause = cause.getCause();
            }
            System.err.println(name + ": " + cause);
            return cause.getClass().getSimpleName();
        }
    }

    /** Waits for what another thread or the broker will make true. */
    static void await(Condition condition, String what) throws Exception {
        long deadline = System.nanoTime() + PATIENCE.toNanos();
        while (!condition.holds()) {
            if (System.nanoTime() > deadline) throw new AssertionError("not within " + PATIENCE + ": " + what);
            Thread.sleep(20);
        }
    }

    Properties settings(Map<String, ?> more) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", servers);
        settings.putAll(more);
        return settings;
    }
}
